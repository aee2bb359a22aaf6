"""The console command: finds the subcommand, and turns how a run ends into an exit status.

Nothing heavy is imported before it is needed, so `lambda-grpo --help` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from lambda_grpo_pl import __version__
from lambda_grpo_pl.cli.help import overview, topic
from lambda_grpo_pl.cli.misfits import describe_misfit
from lambda_grpo_pl.cli.options import PARSERS
from lambda_grpo_pl.errors import UserError

DEBUG_VARIABLE = "LAMBDA_GRPO_DEBUG"
USAGE = """\
usage: lambda-grpo COMMAND [options]

commands:
  fit        train a policy
  validate   evaluate a policy or a checkpoint on the validation sets
  test       the same, logged as test/…
  predict    write the policy's responses to a file
  plan       show what a configuration holds on each GPU and whether it fits, without loading weights
  serve      print or start the vLLM server that samples for a configuration
  compare    compare evaluated runs, question by question
  report     show runs side by side on one HTML page
  replay     learn again from a recorded step of a run, as it did or with another method
  init       copy the configurations that come with the package to a folder

fit, validate, test and predict take a stack of configurations, files or those that come with the package:
  lambda-grpo fit --config preset:lambda --trainer.max_steps 100
  lambda-grpo fit --config configs/base.yaml --config configs/preference/lambda.yaml
`lambda-grpo COMMAND --help` lists options and sections, `lambda-grpo fit --help data.train` the keys of one part.
"""
COMMANDS = ("fit", "validate", "test", "predict", "plan", "serve", "compare", "report", "replay", "init")
RUNS = COMMANDS[:6]
"""Commands that take a configuration."""


def main() -> int:
    """Run `lambda-grpo` and return its exit status.

    0: done. 1 with a traceback: anything unforeseen, such as a defect in a reward. 2 with one sentence: a `UserError`
    (LAMBDA_GRPO_DEBUG=1 shows its traceback). 130: interrupted. 143: ended by SIGTERM. 75: ended by SIGUSR1,
    to be requeued.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"lambda-grpo-pl {__version__}")
        return 0
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there, and that is where own rewards are
    try:
        return _dispatch(arguments)
    except UserError as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        from lambda_grpo_pl.cli.config_files import point_at_settings

        print(f"lambda-grpo: {point_at_settings(' '.join(str(error).split()), sys.argv[1:])}", file=sys.stderr)
        print(f"(Set {DEBUG_VARIABLE}=1 to see the traceback.)", file=sys.stderr)
        return 2
    except (RuntimeError, ImportError, OSError) as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        if misfit := describe_misfit(error):
            print(f"lambda-grpo: {misfit}", file=sys.stderr)
            return 2
        if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"lambda-grpo: The disk is full: {error.filename or 'a file of the run'} could not be written. Complete "
            "checkpoints are intact: free some space and continue with --resume.",
            file=sys.stderr,
        )
        return 2


def _dispatch(arguments: Sequence[str]) -> int:
    command, words = arguments[0], list(arguments[1:])
    if command in PARSERS and topic(words) is not None:
        PARSERS[command]().print_help()
        return 0
    if command == "compare":
        from lambda_grpo_pl.evaluation.compare import main as compare

        return compare(words)
    if command == "report":
        from lambda_grpo_pl.reporting.command import main as report

        return report(words)
    if command == "init":
        from lambda_grpo_pl.cli.presets import main as init

        return init(words)
    if command == "replay":
        from lambda_grpo_pl.cli.quiet import quieten_libraries, quieten_transformers
        from lambda_grpo_pl.cli.replay import main as replay

        quieten_libraries()
        quieten_transformers()
        return replay(words)
    if command not in RUNS:
        near = get_close_matches(command, COMMANDS, n=1)
        advice = f"did you mean {near[0]}? Use" if near else "use"
        raise UserError(f"{command!r} is not a command: {advice} one of {', '.join(COMMANDS)}.")
    if topic(words) == "":
        print(overview(command), end="")
        return 0
    return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    from lambda_grpo_pl.cli.config_files import check_config_files
    from lambda_grpo_pl.cli.plugins import import_plugins, spell_out_imports
    from lambda_grpo_pl.cli.presets import resolve_presets

    arguments = spell_out_imports(resolve_presets(arguments))
    check_config_files(arguments)

    from lambda_grpo_pl.cli.quiet import quieten_libraries, quieten_transformers

    quieten_libraries()
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from lambda_grpo_pl.callbacks.interrupts import PREEMPTED, PreemptedException
    from lambda_grpo_pl.cli.main import build
    from lambda_grpo_pl.cli.resume import check_checkpoint_argument

    quieten_transformers()
    import_plugins(arguments)
    check_checkpoint_argument(arguments)
    sys.argv[1:] = arguments
    try:
        if arguments[0] == "plan":
            from lambda_grpo_pl.cli.plan import main as plan

            return plan(arguments[1:])
        if arguments[0] == "serve":
            from lambda_grpo_pl.cli.serve import main as serve

            return serve(arguments[1:])
        build()
    except MisconfigurationException as error:  # Lightning's UserError
        raise UserError(str(error)) from error
    except PreemptedException:
        return PREEMPTED
    except SIGTERMException:
        return 143
    except SystemExit as end:
        # Lightning ends with status 1 after Ctrl-C.
        if isinstance(end.__context__, KeyboardInterrupt):
            return 130
        raise
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
