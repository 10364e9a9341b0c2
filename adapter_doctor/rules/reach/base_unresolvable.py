"""AD009: base unresolvable."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import BaseFolder, Candidates, Missing
from adapter_doctor.findings import Hit, Severity, listed
from adapter_doctor.formats.base_names import is_local_path, last_part
from adapter_doctor.knowledge.bases import copies, known_as
from adapter_doctor.rules import rule


@rule("AD009", Severity.ERROR, explains=("AD001",))
def base_unresolvable(base: BaseFolder, candidates: Candidates | Missing) -> Iterator[Hit]:
    """No base was given, and the adapter does not name one that can be found.

    ## Why it matters
    An adapter is nothing without its base; 17 % of published adapters name a folder of their author's machine.

    ## Common causes
    Training started from a local folder, or from a model object without a name.

    ## Fix
    Name the base: `adapter-doctor check BASE ADAPTER`, and correct `base_model_name_or_path` in adapter_config.json.
    """
    if base.given or base.exists:
        return
    fitting = candidates.exact or candidates.but_vocabulary if isinstance(candidates, Candidates) else ()
    means = known_as(base.reference)
    of_sizes = f"the tensors have the sizes of {listed(fitting)}" if fitting else ""
    fix = None
    if means and fitting:
        right = copies().get(means, means) in fitting
        fix = f"try `adapter-doctor check {means} ADAPTER`: {'the tensors have its sizes' if right else f'but {of_sizes}'}"
    elif means:
        fix = f"try `adapter-doctor check {means} ADAPTER`"
    elif fitting:
        fix = f"name the base: {of_sizes}"
    if not base.reference:
        yield Hit("`base_model_name_or_path` is empty and no base was given", where="adapter_config.json", fix=fix)
    elif is_local_path(base.reference):
        meant = means or repr(last_part(base.reference))
        yield Hit(
            f"the adapter names {base.reference!r}, a path of another machine; its last part is {meant}",
            where="adapter_config.json",
            fix=fix,
        )
    elif base.reason in ("", "not-found"):
        yield Hit(f"the adapter names the base {base.reference!r}: {base.why}", where="adapter_config.json", fix=fix)
