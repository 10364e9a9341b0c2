"""AD211: rank mismatch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Comparison, Missing
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.declared_ranks import pattern_for, rank_of, ranks_in
from adapter_doctor.rules import rule


@rule(
    "AD211",
    Severity.ERROR,
    explains=("AD304", "AD306", "AD311", "AD5", "AD803", "AD804", "AD805", "AD815"),
    repairable=True,
)
def rank_mismatch(config: AdapterConfig, tensors: AdapterTensors, comparison: Comparison | Missing) -> Iterator[Hit]:
    """The rank that the config declares is not the rank of the tensors.

    ## Why it matters
    PEFT builds the adapter from the config and then refuses the tensors: "size mismatch". The rank also decides the
    scaling, so an edit that only makes it load may change the result.

    ## Common causes
    `r` was edited, the config of another run lies beside the weights, or a `rank_pattern` was lost.

    ## Fix
    Put back the config of the run that made these tensors. If it is lost, set `r`, and a `rank_pattern` for the modules
    that differ, to the ranks of the tensors, and alpha so that alpha / r is what it was in training.
    """
    clashes = comparison.clashes.get("rank", ()) if isinstance(comparison, Comparison) else ()
    if config.peft_type != "LORA":
        if clashes:
            yield Hit(
                f"{list(clashes[0].in_file)} in the file, {list(clashes[0].in_model)} by the config's rank,"
                f" for {counted(len(clashes), 'tensor', 'tensors')}",
                where="adapter_config.json",
                count=len(clashes),
                examples=some(clash.key for clash in clashes),
            )
        return
    on_their_side = {
        one.module
        for clash in (comparison.clashes.get("layout", ()) if isinstance(comparison, Comparison) else ())
        if (one := parse(clash.key)) is not None
    }
    ranks = {module: rank for module, rank in ranks_in(tensors).items() if module not in on_their_side}
    wrapped = bool(config.get("target_parameters"))
    wrong: dict[str, tuple[int, int]] = {}
    for module, rank in ranks.items():
        try:
            declared = rank_of(config, module)
        except (TypeError, ValueError):
            return  # PEFT refuses the declaration itself: another rule's matter
        if rank != declared and not (wrapped and rank % declared == 0):
            wrong[module] = (rank, declared)
    if wrong:
        pairs = Counter(wrong.values())
        (rank, declared), _ = pairs.most_common(1)[0]
        leaves = sorted({module.rpartition(".")[2] for module in wrong})
        all_same = len(wrong) == len(ranks) and len({rank for rank, _ in wrong.values()}) == 1
        cure = (
            f"set `r` to {rank}"
            if all_same
            else f"set `rank_pattern` to {pattern_for(ranks, wrong, config.get('rank_pattern') or {})}"
        )
        yield Hit(
            f"rank {rank} in the file, {declared} in the config, for {len(wrong)} of {len(ranks)} modules"
            f" ({', '.join(leaves[:4])})",
            where="adapter_config.json",
            count=len(wrong),
            examples=some(wrong),
            fix=f"put back the adapter_config.json of the run that made these tensors; if it is lost, {cure}, and alpha so"
            " that alpha / r is what it was in training",
        )
