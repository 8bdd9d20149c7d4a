"""The command line.

medsmith run pipelines/embedded.yml                    make every step that is not up to date
medsmith run pipelines/open_data.yml data=/corpora     with a variable of the pipeline
medsmith run P dpo.trainer.beta=0.2 'train-*.seed=1'   with other settings of a step
medsmith plan P          what a run would do             medsmith status [P | FOLDER]   where things stand
medsmith why P STEP      why a step would run            medsmith doctor                what this machine has
medsmith publish FOLDER --dry-run                        the card and files of a finished run
medsmith launch align.sft R --on slurm --processes 8     what starts a training on GPUs or a cluster (--help)
medsmith align.dpo recipe.yml trainer.beta=0.2           one command by itself (--help lists its settings)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medsmith import __version__
from medsmith.command import find_command, guard, list_commands, run_command
from medsmith.errors import UserError, nearest


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one `medsmith …` line and exit: 0 done, 1 a step failed, 2 a user's mistake, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and "." in given[0] and not given[0].startswith("-"):
        guard(lambda: _run_single(given[0], given[1:]))
    else:
        guard(lambda: _dispatch(given))


def _run_single(name: str, arguments: list[str]) -> None:
    command = find_command(name)
    run_command(command.main, command.config, arguments)


def _dispatch(given: list[str]) -> int:
    if given[:1] == ["launch"]:  # its words are those of another command
        from medsmith import launch

        return launch.main(given[1:])
    parser = _parser()
    if given and not given[0].startswith("-") and given[0] not in VERBS:
        names = [*VERBS, "launch", *(name for name, _ in list_commands())]
        raise UserError(f"there is no command '{given[0]}'; {nearest(given[0], names)}")
    if not given or given[0] in ("-h", "--help"):
        parser.print_help()
        print("\ncommands in this folder (medsmith <command> --help):")
        for name, line in list_commands():
            print(f"  {name:24} {line}")
        return 0
    # Taken out first: argparse would refuse settings that follow an option.
    settings = [word for word in given if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in given if word not in settings])
    options.settings = settings
    return int(VERBS[options.verb](options) or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsmith", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"medsmith {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    settings = (
        "VARIABLE=value, seed=N, out=FOLDER, or STEP.key.sub=value for a setting of one step (STEP may hold '*'); "
        "values are YAML"
    )
    run = add(
        "run", "make every step that is not up to date", "medsmith run pipelines/embedded.yml dpo.trainer.beta=0.2"
    )
    plan = add("plan", "show what a run would do, and do nothing", "medsmith plan pipelines/embedded.yml")
    why = add("why", "tell why a step would run", "medsmith why pipelines/embedded.yml dpo")
    for one in (run, plan, why):
        one.add_argument("pipeline", type=Path, help="a pipeline's YAML")
    why.add_argument("step", help="the step's name")
    for one in (run, plan, why):
        one.add_argument("settings", nargs="*", help=settings)
    for one in (run, plan):
        one.add_argument("--only", nargs="+", default=[], metavar="STEP", help="only these steps and what they need")
    plan.add_argument("--mfu", type=float, help="share of a GPU's operations put to use, for the hours (default: 0.4)")
    run.add_argument("--jobs", type=int, metavar="N", help="at most N steps at a time (1 where they share one GPU)")
    run.add_argument("--dry-run", action="store_true", help="the same as plan")
    status = add("status", "tell where pipelines or runs stand", "medsmith status out/embedded")
    status.add_argument("target", nargs="?", type=Path, help="a pipeline's YAML or a folder (default: all below out/)")
    status.add_argument("settings", nargs="*", help=settings + " (default: those of the last run)")
    add("doctor", "tell what this machine and environment have", "medsmith doctor")
    add("launch", "write what starts a training or a pipeline elsewhere", "medsmith launch --help")
    publish = add("publish", "upload a finished run with its card", "medsmith publish out/embedded/dpo --dry-run")
    publish.add_argument("folder", type=Path, help="a finished run's folder")
    publish.add_argument("--repo", help="namespace/name on the hub")
    publish.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    publish.add_argument("--dry-run", action="store_true", help="print the files and the card; upload nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.dry_run:
        return _plan(options)
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: give at least 1")
    from medsmith.runner import run_pipeline

    return run_pipeline(_load(options), options.jobs)


def _plan(options: argparse.Namespace) -> int:
    from medsmith.config import load
    from medsmith.pipeline import PipelineFile, left_out
    from medsmith.reporting import print_costs, print_plan

    sizes = load(PipelineFile, options.pipeline).sizes
    missing = left_out(options.pipeline, options.settings) if sizes else []
    if missing:
        # What it will cost is asked before there are data to give.
        options.settings = [*options.settings, *(f"{name}=/not/given/{name}" for name in missing)]
        print_costs(_load(options), options.mfu)
        print(f"\nwhat would run is told once {', '.join(f'{name}=PATH' for name in missing)} is given")
        return 0
    print_plan(_load(options))
    if sizes:
        print_costs(_load(options), options.mfu)
    return 0


def _why(options: argparse.Namespace) -> int:
    from medsmith.standing import explain

    pipeline = _load(options)
    if options.step not in pipeline.steps:
        raise UserError(f"no step '{options.step}' in {options.pipeline}; {nearest(options.step, pipeline.steps)}")
    print("\n".join(explain(pipeline, options.step)))
    return 0


def _status(options: argparse.Namespace) -> int:
    from medsmith.reporting import print_status

    print_status(options.target, options.settings)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from medsmith.doctor import examine

    return examine()


def _publish(options: argparse.Namespace) -> int:
    from medsmith import publish

    publish.run(options.folder, repo=options.repo, dry_run=options.dry_run, private=not options.public)
    return 0


def _load(options: argparse.Namespace) -> Any:
    from medsmith.pipeline import load_pipeline

    pipeline = load_pipeline(options.pipeline, options.settings)
    pipeline.check()
    only = getattr(options, "only", [])
    return pipeline.select(only) if only else pipeline


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": _run,
    "plan": _plan,
    "why": _why,
    "status": _status,
    "doctor": _doctor,
    "publish": _publish,
}

if __name__ == "__main__":
    main()
