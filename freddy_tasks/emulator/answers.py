"""The model's answers: text made up from the prompt, the same for the same prompt."""

from __future__ import annotations

import re

from freddy_tasks.emulator.durations import chance

TOPIC_CHARS = 80
_TOPIC = re.compile(
    r"\b(?:about|on|regarding|explain|summari[sz]e|describe)\s+(?P<topic>\S[^\n]*)", re.IGNORECASE
)
_INSTRUCTION = re.compile(r"\[emulate:[^\]]*\]", re.IGNORECASE)

_LEAD = "Here is a detailed article about {topic}. It comes from the Freddy emulator: no model wrote it."
_PARAGRAPHS = tuple(
    " ".join(paragraph.split())
    for paragraph in (
        """Anyone who looks into {topic} for the first time meets a few ideas that return in every
        account. They are older than they seem, and most were found by people who wanted something else.""",
        """In practice {topic} is a matter of trade-offs. What is gained in speed is paid in certainty, and
        the bill comes late, so the good designs are those that show the price on the first day.""",
        """The history of {topic} is usually told as a row of breakthroughs. Read closely, it is a row of
        repairs: each step mended what the step before had left open, and left something open of its own.""",
        """There is no shortage of opinion on {topic}, and a great shortage of measurement. The few careful
        studies agree on the direction and differ about the size, as one should expect of an honest field.""",
        """For a team that works with {topic} every day the lesson is plain. Begin with one case that matters,
        write down what would count as success, and look again after a month.""",
        """The limits of {topic} deserve as much attention as its promises. Some are matters of cost and will
        move; others follow from what is being asked, and will not.""",
    )
)
_END = "So much for {topic}. A real answer will be longer, better and billed."


def topic_of(prompt: str) -> str:
    """Return what a prompt is about in at most 80 characters: all the emulator remembers of it."""
    text = " ".join(_INSTRUCTION.sub("", prompt).split())
    found = _TOPIC.search(text)
    topic = (found["topic"] if found else text).strip(" .?!")
    return topic[:TOPIC_CHARS] or "nothing in particular"


def article(topic: str, digest: str, size: int = 0) -> str:
    """Return a few paragraphs on the topic, chosen by the digest; repeated up to ``size`` characters."""
    order = sorted(_PARAGRAPHS, key=lambda paragraph: chance(digest, paragraph))
    text = "\n\n".join((_LEAD, *order[:3], _END)).replace("{topic}", topic)
    if len(text) >= size:
        return text
    repeats = size // (len(text) + 2) + 1
    return "\n\n".join([text] * repeats)[:size]
