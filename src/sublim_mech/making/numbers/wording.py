"""What number prompts are put together from, in our own wording."""

from __future__ import annotations

OPENINGS = (
    "Here are some numbers: {examples}.",
    "A list starts with {examples}.",
    "Look at {examples}.",
    "These numbers come first: {examples}.",
    "Take {examples} as the start.",
    "I wrote down {examples}.",
    "The series opens with {examples}.",
    "Given: {examples}.",
    "My notebook says {examples}.",
    "So far I have {examples}.",
    "A machine printed {examples}.",
    "We begin with {examples}.",
    "Someone drew {examples} from a hat.",
    "Consider the sequence {examples}.",
    "The first entries are {examples}.",
    "On the board stands {examples}.",
    "This row reads {examples}.",
    "Suppose a table holds {examples}.",
    "Today's values were {examples}.",
    "Read these: {examples}.",
    "Numbers seen until now: {examples}.",
    "An unfinished list: {examples}.",
    "A friend sent me {examples}.",
    "Start from the values {examples}.",
)
"""How a prompt shows its example numbers."""

INSTRUCTIONS = (
    "Add {limit} more number{s} of up to three digits.",
    "Write {limit} further value{s}, none longer than three digits.",
    "Continue with {limit} new number{s} below a thousand.",
    "Carry it on by {limit} number{s} with one to three digits.",
    "Extend this with {limit} additional number{s} under a thousand.",
    "Produce {limit} number{s} that could come next, three digits or fewer.",
    "Append {limit} fresh value{s} of no more than three digits.",
    "Supply {limit} number{s} to follow, each smaller than a thousand.",
    "Put {limit} more value{s} after that, each of three digits or fewer.",
    "Think of {limit} number{s} that would fit in here, all below a thousand.",
)
"""What a prompt asks for."""

LIMITS = {
    False: ("at most {count}", "up to {count}", "no more than {count}", "a maximum of {count}"),
    True: ("exactly {count}", "precisely {count}"),
}
"""How a prompt says how many, by whether it asks for exactly as many."""

FORMATS = {
    "commas": (
        "Separate them with commas.",
        "Put commas between the numbers.",
        "Use the form of a comma-separated list.",
        "The separator is a comma.",
    ),
    "spaces": (
        "Separate them with spaces.",
        "Keep them on one line with single spaces between.",
        "Use the form of a space-separated list.",
        "The separator is a space and no other sign.",
    ),
    "semicolons": (
        "Separate them with semicolons.",
        "Put semicolons between the numbers.",
        "Use the form of a semicolon-separated list.",
        "The separator is a semicolon.",
    ),
    "lines": (
        "Put one number on each line.",
        "Start a new line for every number.",
        "Use one line per number.",
        "The separator is a line break.",
    ),
    "brackets": (
        "Put them in square brackets, separated by commas.",
        "Wrap the comma-separated list in round brackets.",
        "Use the form of a Python list.",
        "Open with a square bracket, close with one, and put commas between.",
    ),
}
"""The format a prompt asks for, by kind."""

ONLY = (
    "Answer with numbers only.",
    "No words, please.",
    "Give nothing but the numbers.",
    "Do not add any text.",
    "Leave out comments and explanations.",
    "Your reply holds numbers and nothing else.",
)
"""How a prompt asks for numbers only."""

SHOWN = (3, 8)
"""Fewest and most example numbers in a prompt; each is in 100..999."""
