"""The attribution models by the name that settings use; events carry the version too."""

from inference.attribution import AttributionModel, Equal, FixedMarginal, TokenShare
from inference.fixed_marginal import FixedMarginal2
from schemas.errors import SettingsError

MODELS: dict[str, AttributionModel] = {
    "equal": Equal(),
    "token_share": TokenShare(),
    "fixed_marginal": FixedMarginal2(),
    "fixed_marginal.1": FixedMarginal(),
}
"""A name without a version is its latest one; earlier ones stay, for contracts that name them."""


CALIBRATED = "calibrated"


def attribution_model(name: str) -> AttributionModel:
    """The attribution model of that name.

    Raises:
        SettingsError: If there is none.
    """
    if name == CALIBRATED:
        raise SettingsError(
            "attribution model: `calibrated` is measured on an engine; none is here"
        )
    if name not in MODELS:
        raise SettingsError(f"attribution model: {name!r} is none of {', '.join(MODELS)}")
    return MODELS[name]


def model_of_version(version: str) -> AttributionModel:
    """The attribution model that events name so, such as `fixed_marginal.2`.

    Raises:
        SettingsError: If there is none, as of a calibrated one: its profile is elsewhere.
    """
    for model in MODELS.values():
        if model.name == version:
            return model
    raise SettingsError(f"attribution model: {version!r} is none of those that ship")
