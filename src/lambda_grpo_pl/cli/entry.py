"""The console command: finds the subcommand, and turns how a run ends into an exit status.

Nothing heavy is imported before it is needed, so `lambda-grpo --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lambda_grpo_pl import __version__
from lambda_grpo_pl.errors import UserError

DEBUG_VARIABLE = "LAMBDA_GRPO_DEBUG"
USAGE = """\
usage: lambda-grpo COMMAND [options]

commands:
  fit        train a policy
  validate   evaluate a policy or a checkpoint on the validation sets
  test       the same, logged as test/…
  predict    write the policy's responses to a file
  compare    compare evaluated runs, question by question

`lambda-grpo COMMAND --help` lists a command's options. fit, validate, test and predict take a stack of configurations:
  lambda-grpo fit --config configs/base.yaml --config configs/preference/lambda.yaml --trainer.max_steps 100
Parts that are optional or in a list show their options with `lambda-grpo fit --data.train.help PromptSource`,
`--data.rules.help`, `--model.policy.lora.help`, and so on for every key whose type is a class.
"""


def main() -> int:
    """Run `lambda-grpo` and return its exit status.

    0: done. 1 with a traceback: anything unforeseen, such as a defect in a reward. 2 with one sentence: a `UserError`
    (LAMBDA_GRPO_DEBUG=1 shows its traceback). 130: interrupted. 143: ended by SIGTERM.
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
        print(f"lambda-grpo: {' '.join(str(error).split())}", file=sys.stderr)
        print(f"(Set {DEBUG_VARIABLE}=1 to see the traceback.)", file=sys.stderr)
        return 2


def _dispatch(arguments: Sequence[str]) -> int:
    if arguments[0] == "compare":
        from lambda_grpo_pl.evaluation.compare import main as compare

        return compare(arguments[1:])
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from lambda_grpo_pl.cli.main import build
    from lambda_grpo_pl.cli.plugins import import_plugins, spell_out_imports
    from lambda_grpo_pl.cli.quiet import quieten_libraries
    from lambda_grpo_pl.cli.resume import check_checkpoint_argument

    quieten_libraries()
    arguments = spell_out_imports(arguments)
    import_plugins(arguments)
    check_checkpoint_argument(arguments)
    sys.argv[1:] = arguments
    try:
        build()
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
