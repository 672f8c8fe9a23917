"""The forms of sequence fusion against one another: time, peak memory, FLOPs, parameters (the paper's Tables 5 and 6).

    python -m benchmarks.adapter_forms [--quick] [--out benchmarks/results/adapter_forms.json]

SF-OP, SF-VF and SF are the forms of the paper, PoS the one that its released code computes, and the last is PoS with
its ranks summed, for a head that reads one token. All are whole adapters (Down, activation, fusion, residual) in eager
torch, float32, with random weights.

- Time: the forms take turns in one process; forward alone, and forward with backward as in training.
- Peak memory: every form in a fresh process of its own: highest resident size during one call, less the resident size
  before it, when all is imported, the parameters are built and another adapter has warmed the libraries up.
- FLOPs: the forms' own formulas, which have to equal what torch's counter sees in this run.
- Agreement: the same function in different forms must give the same numbers in float64, in this run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._timing import Ratio, Spread, alternate, ratio, short
from benchmarks.results import circumstances, publish, table
from wander.adapters._fusion import dense_from_factors
from wander.adapters.sequence_fusion import SequenceFusion, SequenceFusionConfig
from wander.adapters.wander import Wander, WanderConfig
from wander.console import progress

SEED = 0
RANK_H, RANK_T = 8, 12
PAPER_SECONDS = {"SF-OP": 9.16, "SF-VF": 7.87, "SF": 0.015}
REFERENCES = ("SF", "PoS")
MODES = ("forward", "training")
FOLDED = "PoS folded, 1 token"
AGREE = 1e-9
UNEQUAL = "PoS and SF with the same factors"


@dataclass(frozen=True)
class Size:
    """d_t = d, as in the released code, and E = d_h, as the residual needs. `modes` are those that are measured."""

    lengths: tuple[int, ...]
    down: int
    width: int
    batch: int
    modes: tuple[str, ...] = MODES

    @property
    def name(self) -> str:
        return f"ℓ {'/'.join(map(str, self.lengths))}, d {self.down}, E {self.width}, batch {self.batch}"

    @property
    def dense(self) -> SequenceFusionConfig:
        return SequenceFusionConfig(
            embed_dim=self.width, lengths=self.lengths, down_dim=self.down, tokens=self.down, rank_h=RANK_H
        )

    @property
    def low_rank(self) -> WanderConfig:
        return WanderConfig(
            embed_dim=self.width,
            lengths=self.lengths,
            down_dim=self.down,
            tokens=self.down,
            rank_h=RANK_H,
            rank_t=RANK_T,
        )


SIZES = (
    Size((10, 10, 10), 16, 64, 8),
    Size((10, 10, 10), 16, 768, 2),
    Size((20, 20, 20), 16, 40, 2),
    Size((50, 50), 16, 40, 8),
    Size((50, 50, 50), 16, 40, 1, ("forward",)),  # the released sizes; SF-OP takes 2 GB, and 6 GB in training
)
TINY = (Size((4, 3, 5), 3, 8, 2),)


@dataclass(frozen=True)
class Form:
    """One form at one size: how it is built, and what its formulas say."""

    build: Callable[[], nn.Module]
    parameters: int
    flops: int
    trains: bool = True


def forms(size: Size) -> dict[str, Form]:
    outer = size.dense.model_copy(update={"form": "outer_product"})
    vector = size.dense.model_copy(update={"form": "vector_fusion"})
    sums = size.low_rank.model_copy(update={"form": "sum_of_products"})
    released = size.low_rank
    return {
        "SF-OP": Form(
            partial(SequenceFusion, outer), SequenceFusion.parameter_count(outer), SequenceFusion.flops(outer)
        ),
        "SF-VF": Form(
            partial(SequenceFusion, vector), SequenceFusion.parameter_count(vector), SequenceFusion.flops(vector)
        ),
        "SF": Form(partial(random_wander, sums), Wander.parameter_count(sums), Wander.flops(sums)),
        "PoS": Form(partial(random_wander, released), Wander.parameter_count(released), Wander.flops(released)),
        FOLDED: Form(
            lambda: random_wander(released).fold(tokens=1),
            Wander.folded_parameter_count(released, tokens=1),
            Wander.flops(released.model_copy(update={"tokens": 1})),
            trains=False,
        ),
    }


def random_wander(config: WanderConfig) -> Wander:
    """A new adapter's token factors are zero, which would be no fair arithmetic."""
    adapter = Wander(config)
    with torch.no_grad():
        for factor in adapter.factor_t_list:
            factor.normal_()
    return adapter


def hidden_states(size: Size, rows: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(rows, length, size.width, dtype=dtype) for length in size.lengths]


def call(module: nn.Module, hidden: list[Tensor], mode: str) -> Callable[[], object]:
    """One forward pass without gradients, or one forward and backward pass to the parameters."""

    def forward() -> Tensor:
        with torch.inference_mode():
            fused: Tensor = module(hidden)
        return fused

    def training() -> None:
        module.zero_grad(set_to_none=True)
        module(hidden).sum().backward()

    return forward if mode == "forward" else training


def count_flops(module: nn.Module, hidden: list[Tensor], mode: str) -> int:
    context = torch.no_grad() if mode == "forward" else torch.enable_grad()
    with context, FlopCounterMode(display=False) as counter:
        fused = module(hidden)
        if mode != "forward":
            fused.sum().backward()
    return int(counter.get_total_flops())


def peak_memory(size: Size, name: str, mode: str, threads: int) -> float:
    """MB that one call needs at most beyond what is there before it. Runs in a process of its own (Linux only)."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    call(forms(TINY[0])[name].build(), hidden_states(TINY[0], 2), mode)()
    measured = call(forms(size)[name].build(), hidden_states(size, size.batch), mode)
    # Not ru_maxrss: the peak of what started this process is inherited by it, and cannot be reset.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = memory("VmRSS")
    measured()
    return (memory("VmHWM") - before) / 1024


def memory(field: str) -> int:
    """A field of this process' memory in KiB: VmRSS is the resident size, VmHWM its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


def in_fresh_process(size: Size, name: str, mode: str, threads: int) -> float:
    """The process is a fork of one that imported all this and did nothing else."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["wander.adapters.wander", "torch.utils.flop_counter", "wander.console"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_memory, size, name, mode, threads).result()


@torch.no_grad()
def agreement(size: Size) -> dict[str, float]:
    """Relative distance max |a-b| / max |a|, in float64, of forms that must agree, and of two that need not."""
    torch.manual_seed(SEED)
    hidden = hidden_states(size, 1, torch.float64)
    built = {name: form.build().double() for name, form in forms(size).items() if name != FOLDED}
    sums, released = built["SF"], built["PoS"]
    assert isinstance(sums, Wander)
    assert isinstance(released, Wander)
    shared = dict(sums.state_dict())
    down = {name: value for name, value in shared.items() if name.startswith("down.")}
    features = {name: value for name, value in shared.items() if name.startswith("factor_dim_list.")}
    dense_t = {"dense_t": dense_from_factors(list(sums.factor_t_list))}
    dense_h = {"dense_h": dense_from_factors(list(sums.factor_dim_list))}
    built["SF-OP"].load_state_dict(down | dense_h | dense_t)
    built["SF-VF"].load_state_dict(down | features | dense_t)
    released.load_state_dict(shared)
    ones = Wander(sums.config.model_copy(update={"rank_h": 1, "rank_t": 1})).double()
    ones.load_state_dict({k: v.sum(0, keepdim=True) if k.startswith("factor") else v for k, v in shared.items()})
    answers = {name: module(hidden) for name, module in built.items()}
    return {
        "SF = SF-OP with the dense tensors of the same factors": distance(answers["SF"], answers["SF-OP"]),
        "SF = SF-VF with the dense token tensor": distance(answers["SF"], answers["SF-VF"]),
        "PoS = SF at ranks 1 with summed factors": distance(answers["PoS"], ones(hidden)),
        "PoS folded = token 0 of PoS": distance(answers["PoS"][:, :1], released.fold(tokens=1)(hidden)),
        UNEQUAL: distance(answers["SF"], answers["PoS"]),
    }


def distance(reference: Tensor, other: Tensor) -> float:
    return float((reference - other).abs().max() / reference.abs().max())


def measure(
    size: Size, threads: int, rounds: Callable[[str, str], Iterator[object]], block: float, tick: Callable[[str], None]
) -> dict[str, Any]:
    """Everything about one size. Raises ValueError if a formula or an identity does not hold here."""
    torch.set_num_threads(threads)
    distances = agreement(size)
    if wrong := [what for what, error in distances.items() if what != UNEQUAL and error > AGREE]:
        raise ValueError(f"{size.name}: these differ: {'; '.join(wrong)}")
    found: dict[str, dict[str, Any]] = {}
    for name, form in forms(size).items():
        module, hidden = form.build(), hidden_states(size, 1)
        counted = {mode: count_flops(module, hidden, mode) for mode in size.modes if form.trains or mode == "forward"}
        parameters = sum(p.numel() for p in module.parameters())
        if (counted["forward"], parameters) != (form.flops, form.parameters):
            raise ValueError(f"{name} at {size.name}: {counted['forward']} FLOPs and {parameters} parameters counted")
        found[name] = {"parameters": parameters, "flops": counted}
    for mode in size.modes:
        timed = {name: form for name, form in forms(size).items() if mode in found[name]["flops"]}
        torch.manual_seed(SEED)
        calls = {name: call(form.build(), hidden_states(size, size.batch), mode) for name, form in timed.items()}
        seconds = alternate(calls, rounds(size.name, mode), block=block)
        for name, own in seconds.items():
            tick(f"{size.name}, memory of {name}")
            found[name][mode] = {
                "ms": asdict(Spread.of([1000 * s for s in own])),
                "to": {reference: asdict(ratio(own, seconds[reference])) for reference in REFERENCES},
                "peak_mb": in_fresh_process(size, name, mode, threads),
            }
    return {"size": asdict(size), "name": size.name, "agreement": distances, "forms": found}


def body(results: list[dict[str, Any]]) -> list[str]:
    """The report's paragraphs and tables."""
    parts = [
        "Adapters in eager torch, float32, R_h 8, R_t 12, d_t = d, d_h = E. Ratios of times are to SF, taken within a "
        "round, medians over the rounds (in brackets the quartiles, and the ratio of the fastest rounds). Milliseconds "
        "are medians, for context only. "
        "FLOPs are matrix products of one item: the forms' formulas, equal to torch's count in this run (training: "
        "torch's count). Peak MB is what one call needs beyond inputs and parameters; what is below 1 MB is noise."
    ]
    columns = ["form", "parameters"]
    for mode in MODES:
        columns += [f"{mode}: FLOPs", "ms", "time / SF", "peak MB"]
    for result in results:
        rows = [[name, f"{found['parameters']:,}", *_cells(found)] for name, found in result["forms"].items()]
        parts += [f"## {result['name']}", table(columns, rows)]
    pairs = [(name, reference) for reference in REFERENCES for name in ("SF-OP", "SF-VF")]
    paper = [f"{PAPER_SECONDS[name] / PAPER_SECONDS['SF']:.0f}" for name, _ in pairs]
    parts += [
        "## Beside the paper's Table 6",
        "Ratios of times. The paper gives 9.16 s for SF-OP, 7.87 s for SF-VF and 0.015 s for SF, but neither its sizes "
        "nor what it timed. The sizes here are others, so only order and direction can be compared. Its SF may be "
        "either column: the equations begin with SF and end with PoS, which is what the released code computes.",
        table(
            ["size", *(f"{name} / {reference}" for name, reference in pairs)],
            [
                ["paper", *paper],
                *(
                    [f"{result['name']}, {mode}", *(_median(result, mode, *pair) for pair in pairs)]
                    for result in results
                    for mode in result["size"]["modes"]
                ),
            ],
        ),
        "## Agreement",
        "Relative distance in float64, one item. The last line is no error: they are different functions at ranks "
        "above 1.",
        table(
            ["forms", *(result["name"] for result in results)],
            [[what, *(f"{r['agreement'][what]:.1e}" for r in results)] for what in results[0]["agreement"]],
        ),
    ]
    return parts


def _cells(found: Mapping[str, Any]) -> Iterator[str]:
    for mode in MODES:
        if mode not in found:
            yield from ("–",) * 4
            continue
        yield f"{found['flops'][mode]:,}"
        yield short(found[mode]["ms"]["median"])
        yield str(Ratio(**found[mode]["to"]["SF"]))
        yield f"{found[mode]['peak_mb']:.1f}"


def _median(result: Mapping[str, Any], mode: str, name: str, reference: str) -> str:
    return short(result["forms"][name][mode]["to"][reference]["median"])


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it run?")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    number: Annotated[int, typer.Option("--rounds", min=2, help="Rounds of every measurement.")] = 9,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Time, memory, FLOPs and agreement of the forms of sequence fusion."""
    sizes, block = (TINY, 0.001) if quick else (SIZES, 0.02)
    about = circumstances("benchmarks.adapter_forms", ("torch", "numpy")) | {"threads": str(threads)}
    results = []
    with progress() as display:
        task = display.add_task("sizes", total=len(sizes))

        def rounds(size: str, mode: str) -> Iterator[object]:
            for turn in range(2 if quick else number):
                display.update(task, description=f"{size}, {mode}, round {turn + 1}")
                yield turn

        for size in sizes:
            results.append(measure(size, threads, rounds, block, lambda what: display.update(task, description=what)))
            display.advance(task)
    publish("Forms of sequence fusion", about, body(results), {"paper_seconds": PAPER_SECONDS, "sizes": results}, out)


if __name__ == "__main__":
    typer.run(main)
