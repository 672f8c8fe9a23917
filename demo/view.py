"""What is shown of an answer, as HTML. Every text of others is escaped; colours and sizes are in style.css."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STAGES = ("queue", "preprocess", "inference", "postprocess")
SEVEN = {
    -3: "strongly negative",
    -2: "negative",
    -1: "weakly negative",
    0: "neutral",
    1: "weakly positive",
    2: "positive",
    3: "strongly positive",
}
"""The classes of CMU-MOSI."""


def card(*parts: str, title: str = "") -> str:
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<section class="wd-card">{head}{"".join(parts)}</section>'


def note(text: str, kind: str = "note") -> str:
    return f'<p class="wd-{kind}">{escape(text)}</p>'


def waiting(text: str) -> str:
    """In place of an answer, before there is one."""
    return f'<div class="wd-empty">{escape(text)}</div>'


def problem(title: str, text: str, field: str | None = None) -> str:
    """What is wrong, after the field that it is about."""
    named = f"<code>{escape(field)}</code> " if field else ""
    return f'<div class="wd-problem" role="alert"><strong>{escape(title)}</strong><p>{named}{escape(text)}</p></div>'


def bars(rows: Iterable[tuple[str, float]], caption: str = "") -> str:
    """Shares from 0 to 1, as they are ordered; the first is the answer."""
    lines = "".join(
        f'<tr class="{"wd-first" if number == 0 else ""}"><th scope="row">{escape(label)}</th>'
        f'<td class="wd-track"><span style="width:{max(0.0, min(1.0, share)) * 100:.2f}%"></span></td>'
        f"<td>{share * 100:.1f} %</td></tr>"
        for number, (label, share) in enumerate(rows)
    )
    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<table class="wd-bars">{head}<tbody>{lines}</tbody></table>'


def scores(rows: Iterable[tuple[str, float]], best: float) -> str:
    """Scores without bounds, as they are ordered, drawn in proportion to the best."""
    lines = "".join(
        f'<tr class="{"wd-first" if number == 0 else ""}"><th scope="row">{escape(label)}</th>'
        f'<td class="wd-track"><span style="width:{_share(score, best):.2f}%"></span></td><td>{score:.3f}</td></tr>'
        for number, (label, score) in enumerate(rows)
    )
    return f'<table class="wd-bars"><tbody>{lines}</tbody></table>'


def _share(score: float, best: float) -> float:
    return 100 * max(0.0, min(1.0, score / best)) if best > 0 else 0.0


def scale(score: float, label: str, class7: int) -> str:
    """A score from -3 to 3, and the seven classes that it falls into."""
    place = (max(-3.0, min(3.0, score)) + 3) / 6 * 100
    steps = "".join(
        f'<li class="{"wd-on" if step == class7 else ""}"{" aria-current=true" if step == class7 else ""}>'
        f"<b>{step:+d}</b><span>{escape(name)}</span></li>".replace("<b>+0", "<b>0")
        for step, name in SEVEN.items()
    )
    return (
        f'<div class="wd-score"><span class="wd-number">{score:+.2f}</span>'
        f'<span class="wd-label">{escape(label)}</span></div>'
        f'<div class="wd-scale" role="img" aria-label="score {score:+.2f} between -3 and +3">'
        f'<i style="left:{place:.2f}%"></i></div>'
        f'<ol class="wd-seven">{steps}</ol>'
    )


def explanation(told: Mapping[str, Any], tokens: Mapping[str, Sequence[Any]]) -> str:
    """What each token of each modality added to the score or logit: words where there are any, and a strip of all.

    Args:
        tokens: by modality, what its rows are: words, seconds (from, to), or numbers.
    """
    modalities: Mapping[str, Mapping[str, Any]] = told["modalities"]
    most = max((abs(x) for one in modalities.values() for x in _numbers(one["contributions"])), default=0.0) or 1.0
    shown = "".join(_modality(name, one, tokens.get(name, ()), most) for name, one in modalities.items())
    what = f"the {told['target']} of {told['label']}" if told.get("label") else f"the {told['target']}"
    residual, score = float(told["residual_score"]), float(told["score"])
    lead = (
        f"If the adapter added nothing, {what} would be {residual:+.3f}; it is {score:+.3f}. "
        f"The tokens of each modality, by itself, account for the difference of {score - residual:+.3f}."
    )
    legend = (
        f'<p class="wd-legend"><mark style="{_tint(-0.8)}">lowers it</mark> '
        f'<mark style="{_tint(0.8)}">raises it</mark></p>'
    )
    return f"{note(lead)}{shown}{legend}"


def _modality(name: str, told: Mapping[str, Any], tokens: Sequence[Any], most: float) -> str:
    values = _numbers(told["contributions"])
    labels = [_token(token) for token in tokens] + [str(place) for place in range(len(tokens), len(values))]
    words = [
        (label, value) for label, value, token in zip(labels, values, tokens, strict=False) if isinstance(token, str)
    ]
    marked = " ".join(
        f'<mark style="{_tint(value / most)}" title="{value:+.4f}">{escape(word)}</mark>' for word, value in words
    )
    cells = "".join(
        f'<i style="{_tint(value / most)}" title="{escape(label, quote=True)}: {value:+.4f}"></i>'
        for label, value in zip(labels, values, strict=False)
    )
    rest = float(told.get("padding") or 0) + float(told.get("constant") or 0)
    beside = f", {rest:+.3f} of it from padding" if rest else ""
    many = f"{len(values)} tokens" if values else "not given"
    strip = f'<div class="wd-strip" role="img" aria-label="what each of {many} added">{cells}</div>' if values else ""
    return (
        f'<div class="wd-modality"><h4>{escape(name)}<span>{many}: {float(told["total"]):+.3f}{beside}</span></h4>'
        + (f'<p class="wd-words">{marked}</p>' if marked else "")
        + f"{strip}</div>"
    )


def _token(token: Any) -> str:
    """A word as it is, a stretch of time in seconds, or a number."""
    if isinstance(token, list | tuple) and len(token) == 2:
        return f"{float(token[0]):.2f}–{float(token[1]):.2f} s"
    return str(token)


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values]


def _tint(strength: float) -> str:
    """Blue raises, red lowers; the stronger, the deeper."""
    colour = "37,99,235" if strength >= 0 else "220,38,38"
    return f"background:rgba({colour},{min(1.0, abs(strength)) * 0.75:.3f})"


def grid(cells: Iterable[str]) -> str:
    return f'<div class="wd-grid">{"".join(cells)}</div>'


def picture(source: str, title: str, score: float | None = None) -> str:
    media = (
        f'<img src="{escape(source, quote=True)}" alt="{escape(title, quote=True)}" loading="lazy">' if source else ""
    )
    return _cell(media, title, score, "", "not kept here")


def clip(source: str, title: str, score: float | None = None, more: str = "") -> str:
    media = ""
    if source:
        media = (
            f'<video src="{escape(source, quote=True)}" aria-label="{escape(title, quote=True)}" '
            'controls muted playsinline preload="metadata"></video>'
        )
    return _cell(media, title, score, more, "features, no film")


def _cell(media: str, title: str, score: float | None, more: str, absent: str) -> str:
    shown = media or f'<div class="wd-absent">{escape(absent)}</div>'
    told = f"<b>{score:.3f}</b>" if score is not None else ""
    return f"<figure>{shown}<figcaption><span>{escape(title)}</span>{told}{more}</figcaption></figure>"


def weights(shares: Mapping[str, float]) -> str:
    """Small bars of what each expert counts for."""
    most = max(shares.values(), default=1.0) or 1.0
    rows = "".join(
        f'<li><span>{escape(name)}</span><i style="width:{max(0.0, share / most) * 100:.1f}%"></i>'
        f"<b>{share:.2f}</b></li>"
        for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
    )
    return f'<ul class="wd-weights">{rows}</ul>'


def about(told: Mapping[str, Any], answer: Mapping[str, Any], caveat: str) -> str:
    """The model that answered, how it was verified, and where the time went."""
    parity = told["parity"]
    verified = "parity passed" if parity["passed"] else "parity FAILED"
    chips = [
        f"<b>{escape(told['name'])}</b> version {escape(str(answer.get('version', told['version'])))}",
        f"adapter {escape(str(answer.get('adapter', told['adapter'])))}",
        escape(str(told["precision"])),
        escape(str(told["engine"].get("provider", told["engine"].get("engine", "")))),
        f"{verified}: at most {parity['max_abs']:.1e} from {escape(str(parity['reference']))}, "
        f"same decision for {parity['agreement'] * 100:g} %",
    ]
    time = _time(answer["timing"]) if "timing" in answer else ""
    warning = note(caveat, "caveat") if caveat else ""
    return f'{warning}<ul class="wd-chips">{"".join(f"<li>{chip}</li>" for chip in chips)}</ul>{time}'


def _time(timing: Mapping[str, float]) -> str:
    stages = [*STAGES, *(name for name in timing if name not in STAGES)]
    total = sum(timing.get(stage, 0.0) for stage in stages)
    pieces = "".join(
        f'<i class="wd-{escape(stage)}" style="flex-grow:{max(timing.get(stage, 0.0), 0.0) / (total or 1):.4f}"></i>'
        for stage in stages
    )
    names = "".join(
        f'<li class="wd-{escape(stage)}">{escape(stage)} <b>{timing.get(stage, 0.0):.2f} ms</b></li>'
        for stage in stages
    )
    return (
        f'<div class="wd-time"><p>Time in the server <b>{total:.2f} ms</b></p>'
        f'<div class="wd-stack" aria-hidden="true">{pieces}</div><ul>{names}</ul></div>'
    )
