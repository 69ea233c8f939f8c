"""``bijectory show``: what is in a run folder."""

from bijectory.cli.output import print_table, write_json
from bijectory.cli.words import Json, Run


def show(
    run: Run,
    *,
    json: Json = False,
) -> None:
    """Show the columns (or the shape of the images), the training and the scores of a run."""
    from bijectory.apps import run_kind

    if run_kind(run) == "image":
        from bijectory.cli.pictures import show_images

        show_images(run, json=json)
        return
    if run_kind(run) == "vae":
        from bijectory.cli.autoencoding import show_vae

        show_vae(run, json=json)
        return
    from bijectory.cli.summary import readable_fact, summarise

    found = summarise(run)
    if json:
        write_json(found)
        return
    facts = {k: readable_fact(v) for k, v in found["facts"].items()}
    print_table(["run", str(run)], [[k, v] for k, v in facts.items()])
    print()
    rows = [[str(v) for v in column.values()] for column in found["columns"]]
    print_table(["column", "role", "kind", "range", "centre", "scale"], rows)
    print()
    parts = [
        [k, str(s["rows"]), f"{s['log_likelihood']:.4f}", f"{s['standard_error']:.4f}"]
        for k, s in found["scores"].items()
    ]
    print_table(["part", "rows", "nats a row", "standard error"], parts)
    for note in found["notes"]:
        print(f"note: {note}")
