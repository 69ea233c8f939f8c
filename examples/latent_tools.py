"""Through the latent space of a table and back: wines of three growers.

The wine table of scikit-learn (UCI, Aeberhard, Forina 1991): 178 wines, of which alcohol, malic acid, flavonoids and
colour are taken. One flow is fitted to them, and one given the colour. Then: every wine is encoded and decoded, two wines
are interpolated, the direction from light to strong wines is found and wines moved along it, pale and dark wines are asked
for their flavonoids, and a wine is imagined with another colour.

    python examples/latent_tools.py        # about a minute
"""

import numpy as np
from sklearn.datasets import load_wine

import bijectory as bj
from bijectory.apps import Marginal, conditional, counterfactual, interpolate, mean_direction, round_trip, shift

COLUMNS = ["alcohol", "malic_acid", "flavanoids", "color_intensity"]


def main(epochs: int = 60) -> dict[str, float]:
    wines = load_wine(as_frame=True).data[COLUMNS]
    fit = {"recipe": "real_nvp", "recipe_args": {"layers": 4, "hidden": (32,)}, "audit": False}
    config = bj.FitConfig(epochs=epochs, lr=3e-3, batch_size=32, seed=0, progress=False)
    model = bj.fit_table(wines, **fit, config=config).model
    given = bj.fit_table(wines, given=["color_intensity"], **fit, config=config).model

    lossless = round_trip(model, wines)
    print(f"decoded again, no wine is off by more than {lossless.error.max():.1e} standard deviations")

    way = interpolate(model, wines[:1], wines[-1:], steps=5)
    print("from the first wine to the last one:\n", way.round(2).to_string(index=False))

    strong = wines["alcohol"] > 13.5
    direction = mean_direction(model, wines[strong], wines[wines["alcohol"] < 12.5])
    stronger = shift(model, wines[~strong], direction, 0.5)
    gain = float((stronger["alcohol"] - wines[~strong]["alcohol"].to_numpy()).mean())
    print(f"half a step in the direction of strong wines adds {gain:.2f} % of alcohol")

    pale = conditional(model, {"color_intensity": 2.5}, n=1000)
    dark = conditional(model, {"color_intensity": 8.0}, n=1000)
    difference = float(pale.rows["flavanoids"].mean() - dark.rows["flavanoids"].mean())
    print(f"pale: {pale.summary()}")
    print(f"flavonoids of pale wines minus those of dark ones: {difference:+.2f}")
    value, error = Marginal(model, ["alcohol"]).log_prob({"alcohol": [13.0]})
    print(f"marginal log-density of 13 % alcohol: {value[0]:.3f} ± {error[0]:.3f} nats")

    changed = counterfactual(given, wines[:1], given={"color_intensity": 2.5})
    both = given.transform(wines[:1]).to_numpy(), given.transform(changed).to_numpy()
    print("the first wine, had it been pale:\n", changed.round(2).to_string(index=False))
    return {
        "round_trip": float(lossless.error.max()),
        "alcohol": gain,
        "flavanoids": difference,
        "latent_kept": float(np.abs(both[0] - both[1]).max()),
        "ess": pale.ess,
    }


if __name__ == "__main__":
    main()
