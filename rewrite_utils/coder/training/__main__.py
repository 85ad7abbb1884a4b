"""Train the coder of one site with several processes: torchrun --nproc-per-node=2 -m
rewrite_utils.coder.training params/x.yaml SITE FOLDER.

Every process runs the subject on its own rows of each step (on its own GPU, if there is one) and
gradients are the joint batch's; alone, without torchrun, it is one process. A killed training goes
on in FOLDER, which is what ``sites.SITE.coder`` takes afterwards. The one file of this package that
knows parameter files and subjects.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist

from rewrite_utils.coder.stage import configuration, how_trained, streamed
from rewrite_utils.coder.training import TrainingResult, train
from rewrite_utils.runs.machine import device, precision
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject.model import load_subject


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    asked = _parser().parse_args(arguments)
    if (several := "WORLD_SIZE" in os.environ) and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        sites = open_sites(open_run(asked.params_file))
        if asked.site not in sites:
            raise SystemExit(f"no site {asked.site!r}; there are {', '.join(sites)}")
        result = fit(sites[asked.site], asked.folder)
    except (ValueError, OSError, RuntimeError) as error:  # a training that diverges is one
        sys.stderr.write(f"\n{error}\n")
        return 1
    finally:
        if several:
            dist.destroy_process_group()
    if int(os.environ.get("RANK", 0)) == 0:
        last = result.records[-1]
        sys.stdout.write(
            f"FVU {last.fvu:.3f}, {last.dead:.1%} dead, {last.tokens:,} tokens; to use it: "
            f"sites.{asked.site}.coder: {asked.folder}\n"
        )
    return 0


def fit(site: SiteStages, folder: str) -> TrainingResult:
    """Train the site's coder into ``folder`` on this process' share of its activations."""
    several = dist.is_initialized()
    share = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    model = site.params.subject
    where = _device(model.device)
    dtype = precision(model.collected_in, device=where)
    subject = load_subject(model.model, dtype=dtype, device=where, revision=model.revision or None)
    asked, seed = site.settings, site.params.seed
    batches = streamed(asked, seed, subject, site.hookpoint, site.corpus, share=share)
    how = how_trained(asked, len(batches), seed)
    return train(configuration(asked, subject.d_model), batches, settings=how, folder=folder)


def _device(asked: str) -> str:
    """The GPU of this process, by its number on the machine; the CPU where that is meant.

    ValueError where there are more processes than GPUs.
    """
    if device(asked) == "cpu":
        return "cpu"
    place, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if place >= there:
        raise ValueError(
            f"torchrun's process {place} has no GPU of its own, torch sees {there}: lower "
            "--nproc-per-node"
        )
    torch.cuda.set_device(place)
    return f"cuda:{place}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rewrite_utils.coder.training", description=__doc__)
    parser.add_argument("params_file", help="a YAML, or its name in params/")
    parser.add_argument("site", help="a site of it")
    parser.add_argument("folder", help="where the coder and its checkpoints go")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
