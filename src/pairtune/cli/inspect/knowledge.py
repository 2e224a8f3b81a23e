"""what a variant learnt of the facts it was tuned on: the sentences, or the facts; also makes such questions"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairtune.cli import frame
from pairtune.cli._made import check_new, write_folder
from pairtune.cli._pairs import check_place, write_page
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.knowledge import Question
    from pairtune.data.knowledge_made import Stated


def knowledge(
    pair: Annotated[str | None, typer.Argument(help="A pair's folder; none with --make.")] = None,
    facts: Annotated[str | None, typer.Option(help="A table: subject, attribute, value; or a column each.")] = None,
    questions: Annotated[str | None, typer.Option(help="Your own questions: kind, prompt, answer, fact.")] = None,
    make: Annotated[
        Path | None, typer.Option(help="Only write what to tune on and the questions, into this folder.")
    ] = None,
    paraphrases: Annotated[
        int, typer.Option(min=0, max=5, help="With --make: so many other wordings of each fact to train on.")
    ] = 0,
    general: Annotated[
        str, typer.Option(help="General text for what learning cost: a file, or demo:general.")
    ] = "demo:general",
    base: Annotated[str | None, typer.Option(help="The base, where the pair does not name it.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the questions that are made.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page that needs no network.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Ask a base and its variant about facts: as taught, in other words, and where other answers follow from them.

    First --facts FILE --make FOLDER writes what to tune on (pairtune tune --data FOLDER/task) and the questions; after
    tuning, --questions FOLDER/questions.jsonl asks them. With --facts alone the questions are made on the way. Facts
    that the base has already are left out, and of changed facts (a column before) those whose old answer it does not
    give.
    """
    if (facts is None) == (questions is None):
        raise InputError("name either --facts (a table) or --questions (your own)")
    if (pair is None) == (make is None):
        raise InputError("name a pair to ask, or with --facts a folder to --make")
    if make is not None:
        if facts is None:
            raise InputError("--make writes the questions about a table of --facts")
        _make(make, facts, paraphrases, seed, json)
        return
    assert pair is not None
    if paraphrases:
        raise InputError("--paraphrases belongs to --make: it says what to train on")
    if html is not None:
        check_place(html)
    asked = questions if questions is not None else _asked(facts or "", seed)[1]
    from pairtune.analysis.knowledge import measure_knowledge
    from pairtune.data.knowledge import Questions
    from pairtune.pair.twin import load_pairs

    read = Questions.read(asked)  # before anything large is loaded
    found = measure_knowledge(load_pairs({pair: pair}, base)[pair], read, general=general)
    if html is not None:
        write_page(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)


def _asked(facts: str, seed: int) -> tuple[list[Stated], list[Question]]:
    from pairtune.data.knowledge_made import questions, read_table

    stated = read_table(facts)
    return stated, questions(stated, seed)


def _make(folder: Path, facts: str, paraphrases: int, seed: int, json: bool) -> None:
    """Write the task and the questions, and say what is in them."""
    check_new(folder)
    from collections import Counter

    from pairtune.data.knowledge_made import training_rows

    stated, asked = _asked(facts, seed)
    rows = training_rows(stated, paraphrases)
    given = [{name: value for name, value in vars(one).items() if value not in (None, "")} for one in asked]
    # The best state is the one that has the taught words by heart.
    files = {"task/train.jsonl": rows, "task/validation.jsonl": training_rows(stated), "questions.jsonl": given}
    write_folder(folder, files)
    kinds = Counter(one.kind for one in asked)
    result = {"folder": str(folder), "facts": len(stated), "training rows": len(rows), **kinds}
    frame.emit(result, json, text=frame.columns(list(result.items())))
