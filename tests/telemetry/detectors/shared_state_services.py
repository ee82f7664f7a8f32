"""Small services with state: those that keep users' data where all requests reach it, and their legitimate twins.

Each is the source of a module of its own, so that its variables are a real module's. Users say who they are in the
Authorization header; `SECRETS` holds a private value of each, which the tests' ownership knows.
"""

from __future__ import annotations

from typing import Final

SECRETS: Final = {
    "ann": "9f86d081884c7d65ab",
    "bob": "3c6e0b8a9c15224a70",
    "cid": "b14a7b8059d9c05595",
    "dora": "e3b0c44298fc1c149a",
}

_HEAD: Final = """
import asyncio, functools, hashlib
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from fastapi import Depends, FastAPI, Request

SECRET = {secrets!r}
app = FastAPI()

def me(request: Request) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")

"""

BUGGY: Final[dict[str, str]] = {
    "the default of a context variable": """
from contextvars import ContextVar

notes = ContextVar("notes", default=[])

@app.get("/")
async def home(user: str = Depends(me)):
    notes.get().append(SECRET[user])
    return {}
""",
    "a field of a plain namespace": """
from types import SimpleNamespace

sdk = SimpleNamespace(api_key="")

@app.get("/")
async def home(user: str = Depends(me)):
    sdk.api_key = SECRET[user]
    return {}
""",
    "a variable that names the user of the latest request": """
current_user = None

@app.get("/")
async def home(user: str = Depends(me)):
    global current_user
    current_user = user
    return {}
""",
    "one agent with one history for all": """
class Agent:
    def __init__(self):
        self.history = []
    async def run(self, text):
        self.history.append({"role": "user", "content": text})

agent = Agent()

@app.get("/")
async def home(user: str = Depends(me)):
    await agent.run("my code is " + SECRET[user])
    return {}
""",
    "one agent that remembers whom it serves": """
class Agent:
    user = None

agent = Agent()

@app.get("/")
async def home(user: str = Depends(me)):
    agent.user = user
    await asyncio.sleep(0)
    return {}
""",
    "a prompt written for one user on an agent for all": """
class Agent:
    def __init__(self):
        self.system_prompt = ""

agent = Agent()

@app.get("/")
async def home(user: str = Depends(me)):
    agent.system_prompt = f"You help {user} with orders."
    return {}
""",
    "a list that every request appends to": """
HISTORY = []

@app.get("/")
async def home(user: str = Depends(me)):
    HISTORY.append("remember " + SECRET[user])
    return {}
""",
    "a cache whose key leaves the user out and that expires": """
CACHE = {}
calls = 0

@app.get("/")
async def home(user: str = Depends(me)):
    CACHE.clear()
    CACHE["profile"] = {"plan": "gold", "card": SECRET[user]}
    return {}
""",
    "a mutable default": """
def remember(text, seen=[]):
    seen.append(text)
    return seen

@app.get("/")
async def home(user: str = Depends(me)):
    remember("note: " + SECRET[user])
    return {}
""",
    "a list that is an attribute of the class": """
class Conversation:
    messages = []
    def say(self, text):
        self.messages.append(text)

@app.get("/")
async def home(user: str = Depends(me)):
    Conversation().say(SECRET[user])
    return {}
""",
    "a closure around the endpoint": """
def make():
    latest = {"text": None}
    async def home(user: str = Depends(me)):
        latest["text"] = "card " + SECRET[user]
        return {}
    return home

app.get("/")(make())
""",
    "a dependency that is one for all": """
class Basket:
    def __init__(self):
        self.items = []

@functools.lru_cache(maxsize=1)
def basket():
    return Basket()

@app.get("/")
async def home(user: str = Depends(me), mine: Basket = Depends(basket)):
    mine.items.append(("order", SECRET[user]))
    return {}
""",
    "state of the application": """
@app.get("/")
async def home(request: Request, user: str = Depends(me)):
    request.app.state.session = {"user": user, "token": SECRET[user]}
    return {}
""",
    "middleware that keeps what it saw": """
class Remember:
    def __init__(self, app):
        self.app = app
        self.token = ""
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
            self.token = SECRET[user]
        await self.app(scope, receive, send)

app.add_middleware(Remember)

@app.get("/")
async def home():
    return {}
""",
    "slots": """
class Engine:
    __slots__ = ("query", "answer")

engine = Engine()

@app.get("/")
async def home(user: str = Depends(me)):
    engine.query = "balance of " + SECRET[user]
    return {}
""",
    "a bound method of one instance": """
class Handler:
    def __init__(self):
        self.pending = deque(maxlen=50)
    async def home(self, user: str = Depends(me)):
        self.pending.append(SECRET[user].encode())
        return {}

app.get("/")(Handler().home)
""",
    "a synchronous endpoint on a thread": """
class Session:
    who = ""

session = Session()

@app.get("/")
def home(user: str = Depends(me)):
    session.who = user
    return {}
""",
    "a pool of workers that are not reset": """
class Worker:
    def __init__(self):
        self.scratch = []

WORKERS = [Worker(), Worker()]
turn = 0

@app.get("/")
async def home(user: str = Depends(me)):
    global turn
    turn += 1
    WORKERS[turn % 2].scratch.append(SECRET[user])
    return {}
""",
}

LEGITIMATE: Final[dict[str, str]] = {
    "fields that are set and taken away again under a lock": """
class Agent:
    user = None
    prompt = None

agent = Agent()
lock = asyncio.Lock()

@app.get("/")
async def home(user: str = Depends(me)):
    async with lock:
        agent.user, agent.prompt = user, f"You help {user}: " + SECRET[user]
        await asyncio.sleep(0.001)
        agent.user = agent.prompt = None
    return {}
""",
    "an agent per request": """
class Agent:
    def __init__(self, user):
        self.user = user
        self.history = []

@app.get("/")
async def home(user: str = Depends(me)):
    agent = Agent(user)
    agent.history.append(SECRET[user])
    return {}
""",
    "sessions by user": """
SESSIONS = {}

@app.get("/")
async def home(user: str = Depends(me)):
    SESSIONS.setdefault(user, []).append(SECRET[user])
    return {}
""",
    "a cache with the user in its key": """
CACHE = {}

@app.get("/")
async def home(user: str = Depends(me)):
    CACHE[f"profile:{user}"] = {"card": SECRET[user]}
    CACHE[user, "orders"] = [SECRET[user]]
    return {}
""",
    "a cached function of the user": """
@functools.lru_cache(maxsize=100)
def profile(user):
    return {"card": SECRET[user]}

@functools.cache
def orders(kind, *, user):
    return [SECRET[user]]

@app.get("/")
async def home(user: str = Depends(me)):
    return {"n": len(profile(user)) + len(orders("all", user=user))}
""",
    "a table of rows that name their owner": """
@dataclass
class Note:
    owner: str
    text: str
    tags: list = field(default_factory=list)

NOTES = []
ROWS = {}

@app.get("/")
async def home(user: str = Depends(me)):
    NOTES.append(Note(user, "my code " + SECRET[user], [SECRET[user]]))
    ROWS[len(ROWS)] = {"user_id": user, "body": {"text": SECRET[user]}}
    return {}
""",
    "rows whose records name their owner": """
DOCUMENTS = []

@app.get("/")
async def home(user: str = Depends(me)):
    DOCUMENTS.append(({"my", "code", SECRET[user]}, "my code " + SECRET[user], {"user": user}))
    return {}
""",
    "rows that name their conversation": """
MESSAGES = []

@app.get("/")
async def home(user: str = Depends(me)):
    thread = hashlib.sha256(user.encode()).hexdigest()
    MESSAGES.append({"thread_id": thread, "role": "user", "content": SECRET[user]})
    return {}
""",
    "sessions by an opaque id": """
STORE = {}

@app.get("/")
async def home(user: str = Depends(me)):
    STORE[hashlib.sha256(user.encode()).hexdigest()] = {"token": SECRET[user], "who": user}
    return {}
""",
    "counters, times and who is online": """
import time

stats = {"requests": 0, "last_seen": 0.0}
ONLINE = set()
BUCKETS = defaultdict(deque)

@app.get("/")
async def home(user: str = Depends(me)):
    stats["requests"] += 1
    stats["last_seen"] = time.time()
    ONLINE.add(user)
    BUCKETS[user].append(time.monotonic())
    return {}
""",
    "rooms whose messages name their author": """
ROOMS = {"general": {"members": set(), "messages": []}}

@app.get("/")
async def home(user: str = Depends(me)):
    room = ROOMS["general"]
    room["members"].add(user)
    room["messages"].append({"from": user, "text": "hello, " + SECRET[user]})
    return {}
""",
    "an audit trail in words": """
import logging

class Ring(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = deque(maxlen=100)
    def emit(self, record):
        self.lines.append(record.getMessage())

AUDIT = deque(maxlen=100)
ring = Ring()
logger = logging.Logger("audit")
logger.addHandler(ring)

@app.get("/")
async def home(user: str = Depends(me)):
    AUDIT.append(f"{user} opened {SECRET[user]}")
    logger.warning("token %s", SECRET[user])
    return {}
""",
    "a hand-written cache with links": """
class Link:
    def __init__(self, key, value):
        self.key, self.value, self.before, self.after = key, value, None, None

class Cache:
    def __init__(self):
        self.table = {}
        self.head, self.tail = Link("", ""), Link("", "")
        self.head.after, self.tail.before = self.tail, self.head
    def put(self, key, value):
        link = self.table[key] = Link(key, value)
        link.before, link.after = self.head, self.head.after
        self.head.after.before = link
        self.head.after = link

cache = Cache()

@app.get("/")
async def home(user: str = Depends(me)):
    cache.put(user, SECRET[user])
    return {}
""",
    "a stateless singleton and configuration": """
ADMIN = "ann"
PLANS = {"ann": "gold", "bob": "free", "cid": "free"}

class Pricing:
    def __init__(self):
        self.rates = {"gold": 1, "free": 0}
        self.owner = "ann"
    def of(self, user):
        return self.rates.get(PLANS.get(user, "free"))

pricing = Pricing()

@app.get("/")
async def home(user: str = Depends(me)):
    return {"rate": pricing.of(user)}
""",
    "an inbox that others write to": """
INBOX = {}
LATEST = {"ann": "", "bob": ""}

@app.get("/")
async def home(user: str = Depends(me)):
    INBOX.setdefault("ann", []).append({"text": SECRET[user]})
    LATEST["ann"] = f"{user} said hi"
    return {}
""",
    "what is public": """
ARTICLES = {}
LATEST = {"title": ""}

@app.get("/")
async def home(user: str = Depends(me)):
    ARTICLES["today"] = {"id": "77aa01bc93f2e4d5", "text": "the same for everybody"}
    LATEST["title"] = "77aa01bc93f2e4d5"
    return {}
""",
    "a wall of posts signed by nicknames": """
WALL = []
NICKS = {"ann": "Sunflower", "bob": "Hedgehog", "cid": "Comet", "dora": "Waffle"}

@app.get("/")
async def home(user: str = Depends(me)):
    WALL.append({"author": {"name": NICKS[user], "badges": []}, "text": SECRET[user]})
    return {}
""",
    "a queue that is worked off": """
QUEUE = deque()

@app.get("/")
async def home(user: str = Depends(me)):
    QUEUE.append({"text": SECRET[user]})
    await asyncio.sleep(0)
    QUEUE.popleft()
    return {}
""",
    "tokens that are looked up": """
VALID = set()
EXPIRY = []
JOBS = {}
WAITING = deque()

@app.get("/")
async def home(user: str = Depends(me)):
    VALID.add(SECRET[user])
    EXPIRY.append((1700.5, SECRET[user]))
    JOBS[SECRET[user]] = {"state": "queued", "text": SECRET[user]}
    WAITING.append(SECRET[user])
    return {}
""",
    "context variables": """
import contextvars
current = contextvars.ContextVar("current", default=None)

@app.get("/")
async def home(user: str = Depends(me)):
    current.set({"user": user, "secret": SECRET[user]})
    return {}
""",
}


def source_of(body: str) -> str:
    return _HEAD.format(secrets=SECRETS) + body
