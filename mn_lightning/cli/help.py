"""What ``--help`` prints: one screen for each command, with examples first and our options before Lightning's."""

from mn_lightning.configs import config_names, study_names

_MAIN = """\
mn-lightning trains with mixture and mode normalization in place of BatchNorm, and compares them with it.

  mn-lightning compare digits                    the answer for a small data set, in minutes
  mn-lightning layers --config digits            the norm layers of a model, and their names
  mn-lightning fit --config digits               train
  mn-lightning inspect --config digits --ckpt_path lightning_logs/version_0/checkpoints/*.ckpt

commands
  fit         train a model
  validate    evaluate on the validation data
  test        evaluate on the test data
  predict     compute predictions
  layers      list the norm layers that can be swapped
  inspect     draw what the swapped layers of a checkpoint do
  fid         measure the Fréchet distance of a checkpoint's generator
  compare     train with several norms and seeds, and report which is better
  studies     list the studies that are shipped with the package

mn-lightning COMMAND --help says more. mn-lightning --version prints the version.
--traceback, behind any command but compare and studies, shows where an error comes from.
"""

_RUN = """\
options
  -c, --config FILE      a configuration: a file of yours or one that is shipped; several are read one over the other
  --ckpt_path FILE       a checkpoint{ckpt_path}
{own}  --KEY VALUE            any setting of the configuration, as --trainer.max_epochs 3 or --data.batch_size 32
  --print_config         print the whole configuration, and do nothing
  --traceback            show where an error comes from

shipped configurations
  {shipped}

more help
  --help trainer           options of Lightning's Trainer
  --help NormSwapCallback  arguments of a class: of a model, a network, data, an optimizer or a callback
  --help all               everything
"""

_FIT = """\
mn-lightning fit trains a model.

  mn-lightning fit --config digits
  mn-lightning fit --config digits --trainer.max_epochs 1
  mn-lightning fit --config digits --config my_change.yaml
  mn-lightning fit --config digits --ckpt_path lightning_logs/version_0/checkpoints/*.ckpt        (goes on)

A configuration names a model, data and callbacks. NormSwapCallback swaps the norms:

  trainer:
    callbacks:
      - class_path: NormSwapCallback
        init_args: {norm: mixture, layers: {conv3: {n_components: 3}}}

Norms: mixture, mode, mode_group, batch, instance, layer, group. mn-lightning layers lists what can stand there.

"""

_TEST_AFTER_FIT = "  --test_after_fit true  test the trained weights after the training\n"

_EVALUATE = """\
mn-lightning {command} {does}.

  mn-lightning {command} --config digits --ckpt_path lightning_logs/version_0/checkpoints/*.ckpt
  mn-lightning {command} --config lightning_logs/version_0/config.yaml --ckpt_path my.ckpt

Give the configuration of the training: it says what is built, and the checkpoint brings the weights.

"""

_LAYERS = """\
mn-lightning layers lists the norm layers of a model: what can stand under `layers` of NormSwapCallback.

  mn-lightning layers --config digits
  mn-lightning layers --model ImageClassifier --model.network torchvision.models.resnet18

The shapes come from the model's example_input_array or, where it has none, from a batch of the data.

"""

_INSPECT = """\
mn-lightning inspect draws what the swapped layers of a checkpoint do with the validation data, or with what a generator
makes, and writes a page around the pictures.

  mn-lightning inspect --config digits --ckpt_path lightning_logs/version_0/checkpoints/*.ckpt
  mn-lightning inspect --config digits --ckpt_path my.ckpt --layer conv3 --channels [0,5] --folder conv3

options of inspect
  --ckpt_path FILE       the checkpoint; it says which layers were swapped
  --layer NAME           a name or glob of layers, as under layers of NormSwapCallback; all by default
  --channels [C, ...]    the channels to draw; by default four for each layer
  --folder FOLDER        where to write index.html and the pictures; inspection by default
  --samples N            how many images to look at; 512 by default

"""

_FID = """\
mn-lightning fid measures the Fréchet distance of what a checkpoint's generator makes to real images, and prints it.

  mn-lightning fid --config dcgan_cifar10 --ckpt_path lightning_logs/version_0/checkpoints/*.ckpt
  mn-lightning fid --config my_gan.yaml --ckpt_path my.ckpt --trainer.callbacks+=FIDCallback

The FIDCallback of the configuration says what is measured: the extractor, the number of samples, the real images.

options of fid
  --ckpt_path FILE       the checkpoint; it says which layers were swapped

"""

_COMPARE = """\
mn-lightning compare trains with several norms and seeds, and reports what they do to steps and score. The same command
goes on with a study that was interrupted.

  mn-lightning compare digits
  mn-lightning compare my_study.yaml --limit_epochs 1          (try it first)
  mn-lightning compare my_study.yaml --jobs 4
  mn-lightning compare my_study.yaml --report

options
  STUDY                  a study's file, or the name of one that is shipped; digits by default
  --folder FOLDER        where the results go; studies/NAME by default
  --only VARIANT         run this variant alone
  --seed SEED            run this seed alone
  --prepare NAME         train this model, which all runs need, and run nothing
  --report               run nothing, report what has finished
  --dry-run              run nothing, print each run's whole configuration
  --fresh                put earlier results aside and start anew
  --jobs N               train N runs at the same time; auto: one for each GPU, or for two CPU cores
  --gpus_per_job N       GPUs of each run, or a share of one as 0.25
  --backend NAME         local, ray or dask: on this machine, or on a cluster
  --address ADDRESS      the cluster's: auto or ray://host:10001 of Ray, tcp://host:8786 of Dask
  --keep WHICH           best, last, both or none: checkpoints that stay when a run has finished; none by default
  --current_statistics   validate twice: as trained, and with statistics of the current weights; the report has both
  --limit_epochs N       train N epochs at most
  --limit_samples N      use N training samples an epoch at most

shipped studies
  {studies}
"""

_STUDIES = """\
mn-lightning studies lists the studies that are shipped with the package, what they repeat and how much work they are.
It reads no data.

  mn-lightning studies
  mn-lightning compare NAME              run one
"""

_DOES = {
    "validate": "evaluates a model on the validation data",
    "test": "evaluates a model on the test data",
    "predict": "computes a model's predictions; in Python, Trainer.predict returns them",
}


def help_text(command: str | None = None) -> str:
    """Return the help on one command, or the overview of all commands.

    Examples:
        >>> help_text("studies").partition(",")[0]
        'mn-lightning studies lists the studies that are shipped with the package'
    """
    if command is None:
        return _MAIN
    if command == "compare":
        return _COMPARE.format(studies=_wrapped(study_names()))
    if command == "studies":
        return _STUDIES
    ckpt_path = {"fit": " to go on from", "layers": "; not used"}.get(command, " whose weights to use")
    own = _TEST_AFTER_FIT if command == "fit" else ""
    options = _RUN.format(own=own, shipped=_wrapped(config_names()), ckpt_path=ckpt_path)
    if command in ("layers", "inspect", "fid"):
        options = "".join(line for line in options.splitlines(keepends=True) if "--ckpt_path" not in line)
    start = {"fit": _FIT, "layers": _LAYERS, "inspect": _INSPECT, "fid": _FID}.get(command) or _EVALUATE.format(
        command=command, does=_DOES[command]
    )
    return start + options


def _wrapped(names: list[str]) -> str:
    import textwrap

    return "\n  ".join(textwrap.wrap(", ".join(names), 116))
