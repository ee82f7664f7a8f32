"""Knowledge: what the judge of shared places knows of principals, and what of a text belongs to one of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from isolation_monitor.telemetry.detectors.rows import WORDS, words_in
from isolation_monitor.telemetry.tokens import tokens_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.principals import Principal

TEXT_LIMIT: Final = 4_096
"""Characters looked at of one string."""
WORDS_LIMIT: Final = 2_000
TOKENIZED_LIMIT: Final = 5_000

_NUMBERED_NAME: Final = re.compile(
    r"_*(?:current|active|last|latest|this|the|my)?_*(?:user|uid|owner|account|customer|tenant|member|client|principal|sub|login)(?:_?id|_?pk|_?no)?",
    re.IGNORECASE,
)
"""Names of fields that hold an id even where it is a small number."""

Proof = Literal["token", "id", "text"]


class Evidence(NamedTuple):
    """Something that belongs to one principal: a token that is its own, its id, or its id within a text."""

    owner: Principal
    token: str
    proof: Proof


class Owners(Protocol):
    """Whose a token is, as far as it is known."""

    def owner_of(self, token: str) -> Principal | None: ...

    def is_usual(self, token: str) -> bool: ...

    def is_credential(self, token: str) -> bool:
        """Whether it is what somebody proves himself with, or made on its way to somebody: every service keeps those."""
        ...

    def proves_identity(self, token: str) -> bool:
        """Whether it is what somebody proves himself with, and nothing else."""
        ...

    def was_said(self, token: str) -> bool:
        """Whether it is known from nothing but what its owner said."""
        ...

    def was_said_to_all(self, token: str) -> bool:
        """Whether its owner said it where the path says that everybody may read it."""
        ...

    def private_to(self, token: str) -> Principal | None:
        """Whose it is by the application's own word: kept under his id, or declared."""
        ...


class Knowledge:
    """What the judge knows of principals: their ids, which tokens are whose, and which keys two of them share."""

    def __init__(self) -> None:
        self.owners: Owners | None = None
        self.ids: dict[str, Principal] = {}
        """Principals by id, those known by a credential's digest left out. Bounded by whoever fills it."""
        self._tokenized: dict[tuple[int, int], list[str]] = {}
        self.shares: Callable[[Principal, Principal, str], bool] | None = None
        """Whether two principals both named a key in requests of their own, so that what lies under it is theirs together."""

    def evidence(self, text: str, name: str, in_text: bool) -> list[Evidence]:
        """Return what of a text belongs to single principals. `name` is the field's; `in_text` asks for ids within the text."""
        ids = self.ids
        who = ids.get(text)
        if who is not None:
            return [Evidence(who, text, "id")] if Knowledge.is_strong(text, name) else []
        owners = self.owners
        found = []
        if owners is not None and len(text) >= 8:
            whole = owners.owner_of(text) if len(text) <= 200 else None
            if whole is not None:
                return [] if owners.is_credential(text) else [Evidence(whole, text, "token")]
            for token in self.tokens(text):
                owner = ids.get(token) or (None if owners.is_credential(token) else owners.owner_of(token))
                if owner is not None:
                    found.append(Evidence(owner, token, "token" if owner.id != token else "text"))
        if not found and in_text and len(text) <= WORDS_LIMIT:
            named = {word for word in WORDS.findall(text) if word in ids and Knowledge.is_strong(word, "") and len(word) >= 3}
            if len(named) == 1:
                word = named.pop()
                return [Evidence(ids[word], word, "text")]
        return found

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text; most texts stand where they stood at the last walk."""
        key = (hash(text), len(text))
        found = self._tokenized.get(key)
        if found is None:
            if len(self._tokenized) >= TOKENIZED_LIMIT:
                self._tokenized.clear()
            found = self._tokenized[key] = tokens_of(text[:TEXT_LIMIT])
        return found

    def names(self, text: str, owner: Principal) -> bool:
        """Return whether a key names the owner: by its id, or by a token that is its own."""
        if not owner.is_credential:
            id = owner.id
            if text == id or (len(id) >= 4 and id in text) or id in words_in(text):
                return True
        if self.owners is None or len(text) < 8:
            return False
        # As a whole too: owners may know texts that do not look minted.
        if len(text) <= 200 and (whole := self.owners.owner_of(text)) is not None:
            return whole.id == owner.id
        return any((known := self.owners.owner_of(token)) is not None and known.id == owner.id for token in tokens_of(text[:TEXT_LIMIT]))

    @staticmethod
    def is_strong(id: str, name: str) -> bool:
        """Whether an id as a value can be nothing else: small numbers, which count things, and single letters need a field called so."""
        return (len(id) >= 2 and not id.isdigit()) or len(id) >= 6 or _NUMBERED_NAME.fullmatch(name) is not None

    def names_somebody(self, text: str) -> bool:
        """Return whether a key is, or has as one of its words, the id of any principal."""
        ids = self.ids
        return text in ids or any(word in ids for word in words_in(text))
