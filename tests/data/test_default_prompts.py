"""What each task file's default template reads, to the letter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import ROOT
from tests.task_files import NAMES, shown, spec_of
from zofo.data import Example
from zofo.data.files import Record
from zofo.data.spec import maker

Expected = tuple[str, tuple[str, ...], tuple[int, ...]]


# The first demonstration of each file under "default": prompt, answers, right ones. The files are the
# registry's: a new one's is to be written down here.
EXPECTED: dict[str, Expected] = {
    "sst2": (
        "two hours of rain on a window would have been better company . It was",
        (" terrible", " great"),
        (0,),
    ),
    "rte": (
        "The ferry to the island left at six with forty people on board.\n"
        'Does this mean that "A ferry carried forty people." is true? Yes or No?\n',
        ("Yes", "No"),
        (0,),
    ),
    "cb": (
        "Suppose A: Did the plumber come? B: He did, and I was glad that he had brought the long ladder. "
        'Can we infer that "the plumber had brought the long ladder"? Yes, No, or Maybe?\n',
        ("Yes", "No", "Maybe"),
        (0,),
    ),
    "boolq": (
        "The old tram depot -- The depot was built in 1911 and has housed a swimming pool since 1987. "
        "Is there a swimming pool in the old tram depot?\n",
        ("No", "Yes"),
        (1,),
    ),
    "wic": (
        'Does the word "bank" have the same meaning in these two sentences? Yes, No?\n'
        "We ate our bread on the bank of the canal.\n"
        "The bank closes at four on Fridays.\n",
        ("No", "Yes"),
        (0,),
    ),
    "wsc": (
        "The jug would not fit under the tap because it was too tall.\n"
        'In the previous sentence, does the pronoun "it" refer to The jug? Yes or No?\n',
        ("No", "Yes"),
        (1,),
    ),
    "multirc": (
        "Nadia planted beans in April. In June a late frost took half of them. She sowed again in July. \n"
        "Question: When did Nadia sow?\n"
        'I found this answer "April and July". Is that correct? Yes or No?\n',
        ("No", "Yes"),
        (1,),
    ),
    "copa": ("The kettle boiled dry because", (" I forgot it on the stove.", " the tea was cheap."), (0,)),
    "record": (
        "Lindholm (HT) -- The harbour of Lindholm froze on Sunday for the first time since Agnes Brandt became harbour "
        "master.\n"
        "- Brandt: the ferry to Vesk will wait for the ice breaker\n"
        "- Lindholm last froze nine years ago\n"
        "-",
        tuple(
            f" The people of Vesk will have to wait for their post, said {name}."
            for name in ("Lindholm", "HT", "Agnes Brandt", "Brandt", "Vesk")
        ),
        (2, 3),
    ),
    "winogrande": (
        "Rosa carried the crate and not the sack up the stairs because the",
        (" crate was lighter.", " sack was lighter."),
        (0,),
    ),
    "squad": (
        "Title: Market_hall_of_Elster\n"
        "Context: The market hall of Elster was finished in 1896. Its roof of iron and glass was made by the brothers "
        "Kuhn, who also built two bridges in the town.\n"
        "Question: Who made the roof of the market hall?\n"
        "Answer:",
        (" the brothers Kuhn",),
        (0,),
    ),
    "drop": (
        "Passage: The rowing club of Marne won 14 races in 2003 and 9 in 2004. Its eight, led by Henri Petit, came "
        "first on 5 June 2004.\n"
        "Question: How many more races did the club win in 2003 than in 2004?\n"
        "Answer:",
        (" 5",),
        (0,),
    ),
    "gsm8k": (
        "Question: A crate holds 24 jars. Pia fills 3 crates and then takes 5 jars out for her aunt. How many jars are "
        "left in the crates?\n"
        "Answer:",
        (" Pia fills 3 * 24 = 72 jars.\nThere are 72 - 5 = 67 jars left.\n#### 67",),
        (0,),
    ),
    "math500": (
        "Problem: What is the remainder when $7^3$ is divided by $5$?\nWrite the final answer in \\boxed{}.\nSolution:",
        (" We have $7^3 = 343 = 5 \\cdot 68 + 3$, so the remainder is $\\boxed{3}$.",),
        (0,),
    ),
    "humaneval": (
        'def middle(text: str) -> str:\n    """The character in the middle of a text of odd length.\n'
        '    >>> middle("cat")\n    \'a\'\n    """\n',
        ("    return text[len(text) // 2]\n",),
        (0,),
    ),
    "piqa": (
        "Goal: keep a door from slamming\nSolution:",
        (" Push a wedge of cork under it.", " Push a sheet of paper under it."),
        (0,),
    ),
    "siqa": (
        "Noor carried the neighbour's shopping up four flights of stairs. How would you describe Noor?\nAnswer:",
        (" forgetful", " helpful", " hungry"),
        (1,),
    ),
    "aqua": (
        "Question: A tank is filled by one pipe in 6 hours and by a second one in 3 hours. How many hours do both take "
        "together?\n"
        "A. 1\nB. 2\nC. 3\nD. 4.5\nE. 9\n"
        "Answer:",
        (" A", " B", " C", " D", " E"),
        (1,),
    ),
    "mmlu": (
        "Question: How many edges does a cube have?\nA. 6\nB. 8\nC. 12\nD. 24\nAnswer:",
        (" A", " B", " C", " D"),
        (2,),
    ),
    "movie-reviews": (
        "I looked at my watch more often than at the screen. It was",
        (" terrible", " great"),
        (0,),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_default_prompt_to_the_letter(name: str) -> None:
    assert name in EXPECTED, "write down what the first demonstration must read under the default template"
    e = shown(spec_of(name), "default")[0]
    assert (e.prompt, e.answers, e.gold) == EXPECTED[name]


def change(name: str, **columns: Any) -> Example:
    """The first demonstration with other cells, under the default template."""
    spec = spec_of(name)
    return maker(spec, "default")(Record("x", "rows.jsonl:1", {**spec.demonstrations[0], **columns}))


def test_details_of_prompts() -> None:
    assert change("boolq", question="is it new?").prompt.endswith(" Is it new?\n")
    assert '"he" refer to Otto?' in change("wsc", span2_text="He", span1_text="Otto").prompt
    assert change("copa", question="effect").prompt == "The kettle boiled dry so"
    assert change("copa", choice1="I'm late.").answers[0] == " I'm late."
    assert change("copa", choice1="It's late.").answers[0] == " it's late."
    assert change("sst2", label=1).gold == change("sst2", label="positive").gold == (1,)
    assert change("winogrande", sentence='He said "_" twice.').answers == ('crate" twice.', 'sack" twice.')
    assert change("gsm8k", answer="2+2=<<2+2=4>>4\n\n#### 4").answers == (" 2+2=4\n#### 4",)
    assert change("aqua", options=["A) 51 days", "B)B-52", "C)3", "D)D", "E)none"]).prompt.endswith(
        "\nA. 51 days\nB. B-52\nC. 3\nD. D\nE. none\nAnswer:"
    )
    assert change("drop", answers_spans={"spans": ["a", "b"], "types": ["span", "span"]}).reference == [["a"], ["b"]]


def test_what_the_data_has_around_its_words_stays() -> None:
    """MeZO's prompts take these columns as they are: blanks at either end, underscores, letters and full stops."""
    assert change("multirc", paragraph=" Rolfe went out. ").prompt.startswith(" Rolfe went out. \nQuestion: ")
    assert change("multirc", answer="No one ").prompt.endswith('"No one ". Is that correct? Yes or No?\n')
    assert change("squad", title="Super_Bowl_50").prompt.startswith("Title: Super_Bowl_50\nContext: ")
    assert change("squad", title="IPod (4G)").prompt.startswith("Title: IPod (4G)\n")
    assert change("rte", premise=" A ferry left. ").prompt.startswith(" A ferry left. \nDoes ")


@pytest.mark.parametrize("name", ["rte", "cb", "boolq", "wsc", "wic", "multirc"])
def test_calibration_prompts_are_the_templates_last_words_without_input(name: str) -> None:
    """Where MeZO's are empty. docs/tasks.md names the six."""
    spec = spec_of(name)
    nulls = {e.null_prompt for e in shown(spec, "default")}
    assert len(nulls) == 1, "it depends on the row"
    null = nulls.pop()
    assert null
    assert all(null.strip() in e.prompt for e in shown(spec, "default"))
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    assert name in page.partition("MeZO's are empty for ")[2].partition(";")[0]


def test_names_of_a_record_row_count_once_and_each_listed_one_is_right() -> None:
    e = change("record", query="@placeholder won.", entities=["US", "us", "US", "U.S."], answers=["U.S.", "US", "US"])
    assert (e.answers, e.gold) == ((" US won.", " us won.", " U.S. won."), (0, 2))


def test_a_subject_that_is_not_known_is_left_out() -> None:
    spec = spec_of("mmlu")
    make = maker(spec, "subject")
    prompts = [make(Record("x", "y", {**spec.demonstrations[0], "subject": s})).prompt for s in ("a_b", "")]
    assert prompts == [f"An exam in a b.\n{EXPECTED['mmlu'][0]}", EXPECTED["mmlu"][0]]
