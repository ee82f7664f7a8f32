"""More small services with state: objects, closures and compiled containers in shared fields, and their legitimate twin.

Sources as in `shared_state_services.py`.
"""

from __future__ import annotations

from typing import Final

BUGGY_OBJECTS: Final[dict[str, str]] = {
    "a field that holds the latest user's row of a table": """
@dataclass
class User:
    id: str

USERS = {name: User(name) for name in SECRET}

class Api:
    user = None
    async def answer(self, user):
        self.user = USERS[user]
        await asyncio.sleep(0)
        return {"for": self.user.id}

api = Api()

@app.get("/")
async def home(user: str = Depends(me)):
    return await api.answer(user)
""",
    "a registry of tools, each made for the user who asked last": """
@dataclass
class User:
    id: str

USERS = {name: User(name) for name in SECRET}
TOOLS = {}

@app.get("/")
async def home(user: str = Depends(me)):
    row = USERS[user]
    def get_orders():
        return SECRET[row.id]
    TOOLS["get_orders"] = get_orders
    await asyncio.sleep(0)
    return {"orders": len(TOOLS["get_orders"]())}
""",
    "a field whose name only contains a passing one": """
context = {"site": "shop"}

@app.get("/")
async def home(user: str = Depends(me)):
    context["account"] = "account of " + user
    return {}
""",
}

LEGITIMATE_OBJECTS: Final[dict[str, str]] = {
    "what the framework's object and the application's keep by user": """
from types import SimpleNamespace

app.ctx = SimpleNamespace(carts={}, version="1.0")
app.messages = {}

@app.get("/")
async def home(user: str = Depends(me)):
    app.ctx.carts[user] = SECRET[user]
    app.messages.setdefault(user, []).append(SECRET[user])
    return {}
""",
    "requests that are kept beside each other": """
app.latest = deque(maxlen=8)

class Page:
    def __init__(self, request):
        self.scope, self.headers, self.state = request.scope, request.headers, None

@app.get("/")
async def home(request: Request, user: str = Depends(me)):
    Page(request)
    app.latest.append(request)
    return {}
""",
    "rows and closures by user, and the row of a field taken away again": """
@dataclass
class User:
    id: str

USERS = {name: User(name) for name in SECRET}
TOOLS = {}
lock = asyncio.Lock()

class Api:
    user = None

api = Api()

@app.get("/")
async def home(user: str = Depends(me)):
    TOOLS[user] = lambda: SECRET[user]
    async with lock:
        api.user = USERS[user]
        await asyncio.sleep(0)
        api.user = None
    return {}
""",
    "a chain of the users' rows, the latest first": """
@dataclass
class Link:
    user: str
    secret: str
    after: object = None

LINKS = {name: Link(name, SECRET[name]) for name in SECRET}

class Chain:
    first = None

chain = Chain()

@app.get("/")
async def home(user: str = Depends(me)):
    if chain.first is not LINKS[user]:
        LINKS[user].after, chain.first = chain.first or Link("", ""), LINKS[user]
    await asyncio.sleep(0)
    return {}
""",
}
