"""Whether a question can be understood by a reader who does not see the text that it was written from.

Only English phrases are known here. A question in another language passes, unless it uses one of them.
"""

from __future__ import annotations

import re

_QUESTION_MARKS = "?？؟⁇⁈⸮﹖︖;፧᥅꘏"  # the fifth from the end is the Greek one
_CLOSING = "\"'”’»）)]*_ 」』"
_QUESTION_PARTICLE = re.compile(r"(か|吗|嗎|呢)[。.]?$")  # Japanese and Chinese questions may do without a mark
_ARMENIAN_MARK = "՞"  # stands inside the word that is asked for

_TEXT = (
    r"(?:text|passage|document|context|excerpt|paragraph|snippet|section|subsection|chapter|article|paper|study|report"
    r"|survey|essay|book|manuscript|publication|documentation|page|table|figure|chart|graph|diagram|image|appendix"
    r"|footnote|abstract|conclusion|introduction|information|description|source|conversation|dialogue|code snippet"
    r"|code|example|data|results?|authors?|writers?|speakers?|narrator)"
)
_PLAIN_TEXT = (
    r"(?:text|passage|document|excerpt|paragraph|snippet|article|paper|study|work|report|survey|essay|manuscript"
    r"|publication|documentation|appendix|footnote|authors?|writers?|narrator)"
)
_QUALITY = r"(?:(?:given|provided|above|following|present|current|preceding|previous|accompanying|original)\s+)"
_SAYS = (
    r"(?:say|state|mention|describe|discuss|provide|present|propose|suggest|argue|claim|show|report|compare|introduce"
    r"|explain|give|list|refer|cite|note|highlight|focus|conclude|find|found|cover|aim|evaluate|emphasi[sz]e|identify"
    r"|identifie|indicate|consider|recommend|address|addresse|discusse|contain|include|use|think|believe|hope|plan|tell"
    r"|mean|define|illustrate|demonstrate|said|gave|wrote|write|made|make|thought|told)"
)
_BE = r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must)"
# What stands behind `the text` where it is not part of a longer name such as `the text encoder`.
_NOUN_ENDS = (
    rf"(?=\s*$|\s*[?？]|[.,;:!)\]\"”]|['’]s?\b"
    rf"|\s+(?:{_BE}|{_SAYS}(?:s|d|ed)?|above|below|itself|about|and|or)\b)"
)

_POINTS_OUTSIDE = re.compile(
    "|".join(
        [
            # this passage, these results, the above table, the provided context, the following
            rf"\b(?:this|these)\s+{_QUALITY}?{_TEXT}s?\b(?!-)",
            rf"\bthe\s+(?:given|provided|above|above-mentioned|aforementioned|accompanying|preceding)\s+{_TEXT}s?\b",
            rf"\bthe\s+{_TEXT}s?\s+(?:(?:given|provided|shown|listed|mentioned)(?=\s*(?:$|[?,.:;]))|above\b|below\b)",
            r"\bthe\s+(?:above|aforementioned|mentioned)\b(?!-ground)|\bmentioned\s*(?=[?,]|$)",
            r"\b(?:which|what|who|any|one|all)\s+of\s+the\s+following\b",
            rf"\b(?:mentioned|discussed|described|shown|listed|stated|given|provided|presented|outlined|highlighted|seen"
            rf"|defined|noted)\s+(?:above|below|here|earlier|previously|in\s+(?:the|this)\s+{_QUALITY}?{_TEXT})\b",
            # according to the text, in the context of this study, based on the table
            rf"\b(?:according\s+to|based\s+on|as\s+per|in\s+the\s+light\s+of)\s+(?:the|this)\s+{_QUALITY}?{_TEXT}s?"
            rf"{_NOUN_ENDS}",
            rf"\baccording\s+to\s+(?:the\s+)?{_PLAIN_TEXT}\b(?!\s+of\b|-)",
            # the text, the authors, the paper: where no name follows that says which
            rf"\bthe\s+{_PLAIN_TEXT}s?{_NOUN_ENDS}",
            rf"\bin\s+the\s+(?:{_QUALITY}{_TEXT}|context(?:\s+information)?|section|table|figure|chapter|conclusion"
            rf"|abstract|introduction){_NOUN_ENDS}",
            r"\bthe\s+context\s+information\b|\bthe\s+context\s+(?:says?|mentions?|provides?|describes?)\b",
            rf"\bthe\s+(?:table|figure|chart|graph|diagram|section|chapter)\s*(?:(?:{_SAYS})(?:s|ed)?\b|[?,])",
            rf"\bdo(?:es)?\s+the\s+(?:table|figure|chart|graph|diagram|section|chapter)\s+{_SAYS}\b",
            # Figure 3, Table 2, section 4.1, equation (5), appendix B, on page 7; Section 230 of a law is a name
            r"\b(?:figures?|tables?|sections?|figs?\.|tab\.|sec\.)\s*\d+(?:\.\d+)*[a-z]?\b(?!\s+of\s+(?!this|the\s+paper))",
            r"\b(?:equations?|eqs?\.|eqns?\.?)\s*\(?\d|\bappendix\s+[A-Z0-9]\b|\b[oi]n\s+(?:page|slide)\s+\d",
            # our model, this work, the proposed method; how does it, how do they: nothing before says what
            r"\b(?:this|our)\s+(?:work|research|experiments?|models?|methods?|approach|results|findings|analysis)\b",
            r"\bthe\s+proposed\s+(?:method|model|approach|system|architecture|framework)\b",
            rf"\b{_BE}\s+we\s+(?:{_SAYS}|train|observe|choose|chose|select|obtain|perform|apply|measure)\b",
            rf"^(?:(?:what|how|why|when|where|who|which)\s+)?{_BE}\s+(?:they|he|she|this|these)\b(?!-)",
        ]
    ),
    re.IGNORECASE,
)


def is_question(text: str) -> bool:
    """Whether a text ends as a question does, in any script."""
    end = text.strip().rstrip(_CLOSING)
    return bool(end) and (
        end[-1] in _QUESTION_MARKS or _ARMENIAN_MARK in end or bool(_QUESTION_PARTICLE.search(text.strip()))
    )


def points_outside(question: str) -> bool:
    """Whether a question speaks of a text, a figure or a speaker that its reader does not have before them."""
    return bool(_POINTS_OUTSIDE.search(question))
