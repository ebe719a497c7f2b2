"""The contact sheet: pictures of some rows with what was said of each, what became of it and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.cost import usd_text
from pipeline.prompt.pictures.cells import Inline
from pipeline.records import NANOS_PER_USD
from pipeline.report.page import Figure, Picture, Sheet, SheetCard
from pipeline.report.page.text import line, shown
from pipeline.report.run.album import Album, Shot
from pipeline.report.run.figures import many
from pipeline.report.run.ledger import Bill
from pipeline.report.run.rows import MEANING, cell
from pipeline.report.run.thumbs import Thumb, evenly, share, thumbs
from pipeline.report.run.told import Laid, Pictured, Read
from pipeline.report.run.view import STATUSES, View

MOST_CARDS = 120
MOST_OF_A_ROW = 4
"""Pictures of one row that are drawn; how many more it has is said."""

PICTURE_BYTES = 1_500_000
"""Base64 of all pictures of a page of the usual number of cards."""

TEXT_BYTES = 400_000
"""Likewise, of all its words as they stand in HTML."""

MOST_TEXT, LEAST_TEXT = 6_000, 1_500
"""Of one card, in bytes."""

MOST_WORK = 1_500_000_000
"""Pixels decoded for one page (`Album.work`): 120 pictures of a good camera."""

MOST_INLINE = 128 * 1024 * 1024
"""Bytes of pictures held at a time, where they stand in the rows themselves."""

LEAST_FACT = 100
"""Of a column, where those before it are long."""

LONGEST_CAPTION = 160
LONGEST_NAME = 120
LONGEST_REASON = 140
MOST_FACTS = 12
MARKS = {"ok": "✓", "truncated": "✂", "refused": "⊘", "invalid": "≠", "failed": "✕", "pending": "…"}
"""What a status is marked with beside its name: the colour alone tells nobody who does not see it."""

TROUBLED = ("failed", "invalid", "refused", "truncated", "pending")


def sheet(view: View) -> Figure | None:
    """Cards of rows with pictures, every status among them, in the order of the rows."""
    pictured = view.pictured
    if pictured is None or pictured.most == 0 or not view.total:
        return None
    wanted = quotas(view.rows, pictured.most or MOST_CARDS)
    bills = [bill for name, number in wanted.items() for bill in view.ledger.spread(name, number, view.rows[name])]
    bills.sort(key=lambda bill: bill.place)
    shots = _shots(pictured, bills)
    answers = view.read({b.key: b.attempt for b in bills if b.key is not None and b.attempt is not None})
    drawn = _drawn(pictured, shots)
    room = min(MOST_TEXT, max(LEAST_TEXT, TEXT_BYTES // len(bills)))
    cards = [
        _card(view, bill, answers.get(bill.key or b""), drawn[bill.place], len(shots[bill.place]), room)
        for bill in bills
    ]
    counts = {name: (number, view.rows[name]) for name, number in wanted.items() if number}
    return Figure(
        "Contact sheet", _words(view, len(cards)), sheet=Sheet(cards, _filters(counts, len(cards), view.total))
    )


def quotas(rows: Mapping[str, int], most: int) -> dict[str, int]:
    """How many cards each status has: what is not ok comes first, and takes no more than half from what is."""
    troubled = {name: rows.get(name, 0) for name in TROUBLED}
    ok = min(rows.get("ok", 0), max(most // 2, most - sum(troubled.values())))
    found = {"ok": ok, **_fair(troubled, most - ok)}
    return {name: found[name] for name in STATUSES}


def _fair(counts: Mapping[str, int], room: int) -> dict[str, int]:
    """Deal room out evenly to those that need it; an odd one goes to the first."""
    given = dict.fromkeys(counts, 0)
    while room and (hungry := [name for name in counts if given[name] < counts[name]]):
        each, odd = divmod(room, len(hungry))
        for nth, name in enumerate(hungry):
            more = min(each + (nth < odd), counts[name] - given[name])
            given[name] += more
            room -= more
    return given


def _words(view: View, number: int) -> str:
    if number == view.total:
        how = f"All {many(number, 'row')}, in their order."
    else:
        how = (
            f"{number:,} of {view.total:,} rows are shown, in their order: of each status some, "
            "evenly spread over the run."
        )
    today = " The pictures are those that lie there today." if view.asked.planless else ""
    return f"{how}{today}"


def _filters(counts: Mapping[str, tuple[int, int]], number: int, total: int) -> list[tuple[str, str, str]]:
    """Value, words and number of each choice; none where there is nothing to choose."""
    if len(counts) < 2:
        return []
    told = {"all": (number, total), **counts}
    return [(name, f"{MARKS[name]} {name}" if name in MARKS else name, _of(*numbers)) for name, numbers in told.items()]


def _of(number: int, whole: int) -> str:
    return f"{number:,}" if number == whole else f"{number:,} of {whole:,}"


# ------------------------------------------------------------------------------------ pictures


def _shots(pictured: Pictured, bills: Sequence[Bill]) -> dict[int, list[Shot]]:
    """The pictures of rows, by their places."""
    wanted = {bill.place: bill for bill in bills}
    found: dict[int, list[Shot]] = {}
    at, held = 0, 0
    for laid in pictured.lay():
        for nth in range(len(laid.prompts)):
            if (bill := wanted.get(at + nth)) is None:
                continue
            shots = pictured.album.shots(bill.row, laid.prompts[nth], _values(laid, nth))
            held += sum(len(shot.name.content) for shot in shots if isinstance(shot.name, Inline))
            if held > MOST_INLINE:
                shots = [replace(shot, name=None) for shot in shots]
            found[at + nth] = shots
        at += len(laid.prompts)
    return {bill.place: found.get(bill.place, []) for bill in bills}


def _values(laid: Laid, nth: int) -> Mapping[str, Any]:
    values: Mapping[str, Any] = laid.kept.slice(nth, 1).to_pylist()[0]
    return values


def _drawn(pictured: Pictured, shots: Mapping[int, Sequence[Shot]]) -> dict[int, list[Picture]]:
    """The pictures as they stand on the page, by the rows' places; the first few of each row."""
    album = pictured.album
    each = [(place, shot) for place, of_row in shots.items() for shot in of_row[:MOST_OF_A_ROW]]
    names = [line(album.label(shot), LONGEST_NAME) for _, shot in each]
    reads = _reads(album, [shot for _, shot in each], all_of_them=pictured.most is not None)
    made = thumbs(reads, [name or "the picture" for name in names], share(PICTURE_BYTES, len(each)))
    found: dict[int, list[Picture]] = {place: [] for place in shots}
    for (place, _), thumb, name in zip(each, made, names, strict=True):
        found[place].append(_picture(thumb, name))
    return found


def _picture(thumb: Thumb, name: str) -> Picture:
    return Picture(thumb.uri, thumb.width, thumb.height, name, line(thumb.words))


def _reads(album: Album, shots: Sequence[Shot], *, all_of_them: bool) -> list[Callable[[], bytes] | None]:
    """How each is read; None for those that would take too long, evenly spread."""
    work = 0 if all_of_them else sum(map(album.work, shots))
    chosen = evenly(len(shots) if work <= MOST_WORK else max(1, len(shots) * MOST_WORK // work), len(shots))
    return [partial(album.content, shot) if nth in chosen else None for nth, shot in enumerate(shots)]


# ------------------------------------------------------------------------------------ cards


def _card(
    view: View, bill: Bill, answer: Read | None, pictures: Sequence[Picture], number: int, room: int
) -> SheetCard:
    mask = view.asked.mask
    name = line(mask(_name(bill.row, pictures, number)), LONGEST_NAME)
    values = {} if answer is None else answer.values
    columns = bool(values)
    if all(value is None for value in values.values()):
        # The answer could not be read into columns; its text, in the open card, tells more.
        values = {}
    text = "" if answer is None else answer.text or ""
    caption = _caption(values, "" if columns else text)
    alt = values.get("alt_text")
    alt = line(alt if isinstance(alt, str) and alt.strip() else name, LONGEST_NAME * 2)
    reason = "" if bill.status in ("ok", "pending") else _reason(bill, mask)
    if not pictures and bill.status != "pending":
        pictures = [Picture(words="no picture")]
    more = number - len(pictures)
    # What stands in the picture's place already is not said twice.
    said = any(each.words and mask(each.words) in reason for each in pictures)
    return SheetCard(
        name=name,
        status=bill.status,
        badge=f"{MARKS[bill.status]} {bill.status}",
        pictures=[
            replace(each, alt=_alt(alt, each.alt, nth, number), words=_short(mask(each.words), LONGEST_REASON))
            for nth, each in enumerate(pictures)
        ],
        more=f"and {many(more, 'more picture')}" if more > 0 else "",
        caption=_short(caption, LONGEST_CAPTION),
        reason=_short(reason if not said else bill.kind or "", LONGEST_REASON),
        cost=_cost(bill),
        **_details(values, text, reason, room),
    )


def _name(row: str, pictures: Sequence[Picture], number: int) -> str:
    """What a card is called: the row, and its picture's file where that is one and the row is not called like it."""
    file = pictures[0].alt if number == 1 and pictures else ""
    return f"{row} · {file}" if file and file not in row else row


def _alt(alt: str, name: str, nth: int, number: int) -> str:
    return alt if number < 2 else f"{alt} ({nth + 1} of {number}{': ' + name if name else ''})"


def _caption(values: Mapping[str, Any], text: str) -> str:
    """What is said of a picture: the column called caption, else the first that is text, else the answer."""
    if isinstance(caption := values.get("caption"), str):
        return caption
    return next((value for value in values.values() if isinstance(value, str)), "") if values else text


def _reason(bill: Bill, mask: Callable[[str], str]) -> str:
    why = bill.kind or bill.stop_reason or ""
    message = mask(bill.message or "") or MEANING.get(bill.status, "")
    return f"{why}: {message}" if why and message else why or message


def _cost(bill: Bill) -> str:
    if bill.status == "pending" and not bill.calls:
        return ""
    if bill.key is None or bill.unsent:
        return f"{usd_text(0)}, not sent"
    if bill.repeats:
        return f"{usd_text(0)}, as an equal row"
    if bill.reused and not bill.calls:
        return f"{usd_text(0)}, reused"
    return "price unknown" if bill.nanos is None else _usd(bill.nanos)


def _usd(nanos: int) -> str:
    """An amount; one row may cost so little that the usual four decimals show nothing of it."""
    return f"${nanos / NANOS_PER_USD:.6f}" if 0 < nanos < NANOS_PER_USD // 1000 else usd_text(nanos)


def _details(values: Mapping[str, Any], text: str, reason: str, room: int) -> dict[str, Any]:
    """What a card shows when it is open: the whole reason, the typed columns, else the text."""
    told = [("reason", shown(reason))] if reason else []
    for name, value in list(values.items())[:MOST_FACTS]:
        told.append((line(name, 80), shown(value) if isinstance(value, str) else cell(value) or "null"))
    left = Room(room)
    facts = [(name, left.fit(value, LEAST_FACT * (len(told) - nth))) for nth, (name, value) in enumerate(told, 1)]
    if len(values) > MOST_FACTS:
        facts.append(("…", f"{len(values) - MOST_FACTS:,} more columns"))
    return {"facts": facts, "text": "" if values else left.fit(shown(text))}


def _short(text: str, most: int) -> str:
    """The beginning of a text, in one line."""
    told = line(text[: 2 * most])
    return told if len(told) <= most and len(text) <= 2 * most else f"{told[:most].rstrip()}…"


@dataclass(slots=True)
class Room:
    """Bytes of HTML that are left for the words of a card."""

    left: int

    def fit(self, text: str, spare: int = 0) -> str:
        """As much of a text as there is room for, and how much is left out; `spare` bytes are for what follows."""
        room = max(0, self.left - spare)
        kept = text[:room]
        while (size := html_bytes(kept)) > room:
            kept = kept[: len(kept) * room // size]
        self.left = max(0, self.left - html_bytes(kept))
        cut = len(text) - len(kept)
        return f"{kept} … and {cut:,} more characters" if cut else kept


def html_bytes(text: str) -> int:
    """How long a text is once it is escaped."""
    from markupsafe import escape

    return len(str(escape(text)).encode("utf-8", "backslashreplace"))
