"""What is said where the names of a model's remote code, or of its built-in class, are the reason."""

from __future__ import annotations

from adapter_doctor.facts import AdapterConfig, RemoteCode


def reason(remote: RemoteCode) -> str:
    """Whose module names the adapter has, and what this base is: a clause that follows "they have"."""
    own = f"transformers' own `{remote.built_in}`"
    if not remote.since:
        own = f"a copy in the layout of transformers' `{remote.built_in}`"
    elif remote.in_adapter:
        own += f", built in since {remote.since}"
    if remote.in_adapter:
        return f"the module names of {remote.whose}, and this base is {own}"
    return f"the module names of {own}, and this base has those of {remote.whose}"


def unchanged(remote: RemoteCode) -> str:
    """On which base, and with which transformers, the adapter works as it is: the end of an imperative."""
    if remote.in_adapter:
        base, how, pin = remote.repository or "this base", remote.load, remote.needs
        why = ""
        if not pin and remote.since:
            pin, why = f"<{remote.since}", ", from before it was built in"
    elif remote.since:
        base, why = remote.converted or "this base", ""
        how, pin = "transformers' own class (no `trust_remote_code`)", f">={remote.since}"
    else:
        base = f"the base that it was trained on, which has the layout of `{remote.built_in}`"
        how = pin = why = ""
    steps = [one for one in (how, f"`pip install 'transformers{pin}'`{why}" if pin else "") if one]
    return f"or keep the adapter as it is, on {base}{' with ' if steps else ''}{' and '.join(steps)}"


def layouts(remote: RemoteCode) -> str:
    """How the fused layers differ, by one of them."""
    whole, one = next(iter(remote.fused.items()))
    leaves = ", ".join(f"`{part.rpartition('.')[2]}`" for part in one.parts)
    rows = "one key/value head after the other" if one.grouped else "one behind the other"
    return f"`{whole.rpartition('.')[2]}` holds the rows of {leaves}, {rows}"


def mends(config: AdapterConfig, *, apart: bool) -> bool:
    """Whether updates of this kind can be taken ``apart`` by rows, or else put together, and are the same update."""
    return config.peft_type == "LORA" and (apart or not config.get("use_dora"))
