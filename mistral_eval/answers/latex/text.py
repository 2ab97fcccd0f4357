"""Reduce an answer's text to a normal form: one spelling where TeX allows several.

Source: the string rules of Hendrycks et al. 2021 (`math_equivalence.py`) and of Minerva's appendix
(Lewkowycz et al. 2022), kept only where they preserve the answer's meaning.
"""

import re

MAX_CHARS = 2000  # no gold answer has more than 120; longer texts compare as they are

_UNICODE = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ", "\u00f7": r"\div ", "\u221a": r"\sqrt ", "\u03c0": r"\pi ",
        "\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u2264": r"\le ", "\u2265": r"\ge ",
        "\u2260": r"\ne ", "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u222a": r"\cup ",
        "\u2229": r"\cap ", "\u2208": r"\in ", "\u211d": r"\mathbb{R}", "\u00b2": "^2",
        "\u00b3": "^3", "\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}",
        "\u00be": r"\frac{3}{4}", "\u03b8": r"\theta ", "\u2205": r"\emptyset ",
        "\u2018": "'", "\u2019": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
        "\u20ac": "", "\u00a3": "",
    }
)  # fmt: skip
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])"
)
# 1{,}000, 1,\!000, 1\,000: a separator before exactly three digits
_THOUSANDS = re.compile(
    r"(?<=[0-9])[ ]?(?:\{,\}|,[ ]?\\!|\\!,|\\,|\\;|\\ )[ ]?(?=[0-9]{3}(?![0-9]))"
)
_SPACES = re.compile(r"(?<!\\)\\(?:[,;:! ]|quad(?![A-Za-z])|qquad(?![A-Za-z]))|~|\s")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|hbox)\s*\{([^{}]*)\}"
)
_PROSE = re.compile(r"[A-Za-z0-9\s.,:;()'\"-]+")
_BETWEEN_WORDS = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])|['\"]")  # 1 2 is not 12
_WORD = re.compile(r"[A-Za-z]{3}")
_TIME = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))?([ap])\.?m\.?")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")


def normal_form(text: str) -> str:
    """Return the answer without dollar signs, sizes, stylistic spaces and final punctuation."""
    text = text.translate(_UNICODE)
    if r"\begin" not in text.replace(r"\\begin", ""):
        text = re.sub(r"\\\\(?=[A-Za-z$%])", r"\\", text)  # a doubly escaped command
    text = _SIZES.sub(" ", text)
    text = _THOUSANDS.sub("", text)
    text = re.sub(r"\^\s*\{\s*\\(?:circ|degree)\s*\}", r"^\\circ ", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\[()\[\]](?!\w*pt\])", " ", text) if r"\begin" not in text else text
    text = text.replace(r"\$", "").replace("$", "").replace("**", "^").replace(r"\%", "%")
    text = " ".join(_SPACES.sub(" ", text).split())
    return text.rstrip(" .,;:")


def words(text: str) -> str:
    r"""Return the words of a normal form, "" if it is a formula: `\text{(C)}` and `C` are C.

    Words of three letters or more and everything in `\text` are lowered; a single letter may be a
    variable and keeps its case.
    """
    plain = _TEXT.sub(r"\1", text)
    if not _PROSE.fullmatch(plain):
        return ""
    bare = _BETWEEN_WORDS.sub("", plain).rstrip(".,;:")
    bare = bare[1:-1] if re.fullmatch(r"\([A-Za-z]\)", bare) else bare
    return bare.lower() if len(bare) > 1 and (plain != text or _WORD.search(bare)) else bare


def clock(text: str) -> tuple[int, int, str] | None:
    """Return (hour, minute, "a", "p" or "") if the words are a time of day, else None."""
    time = _TIME.fullmatch(text.lower())
    if time:
        return int(time[1]), int(time[2] or 0), time[3]
    bare = _CLOCK.fullmatch(text)
    return (int(bare[1]), int(bare[2]), "") if bare else None
