"""A choice of the programs: for laws of one part of the library, whose code is the same for most of them.

Over all are run the laws that find a program which is computed wrong: brute force, Pyro's own evidence, both engines.
"""

from programs.registry import NAMES

from oracles.engines import EVERYTHING, Built

STRUCTURES = (
    "markov_chain", "factorial_chain", "global_latent_above_chain", "left_to_right_chain", "hmm_ragged",
    "hmm_covariate", "hmm_under_a_global_latent", "hmm_of_another_family", "loop_ragged_and_weighted",
    "loop_backwards", "hmm-gaussian", "missing_observations", "masked_rows", "everything_masked_at_one_site",
    "missing_cells", "padded_chains", "partly_labelled", "mask_by_latent", "gaussian_mixture",
    "multivariate_mixture_tied", "three_way_table", "one_hot_latent", "ModuleWithPrior", "NestedLinear",
    "global_latent", "three_nested_plates", "latents_at_every_level", "sequential_plate", "far_dimension",
    "beta_coins", "mixture_of_regressions", "structural_zeros", "shared_parameter", "factor_statement",
    "mixed_precision", "no_latent", "barren_latent", "no_plate", "row_counts", "sequence_counts", "nested_counts",
    "gaussian-full", "latent-classes-missing", "discrete-hmm-gaussian", "regression-experts", "neural-em",
)  # fmt: skip
"""One or two of each structure: chains, loops, hidden states, masks, labels, plates, modules, priors, weights."""

KINDS = (
    "student", "positive_families", "gamma", "priors_without_conjugacy", "hurdle-negative-binomial", "beta",
    "negative-binomial", "laplace", "von-mises", "inverse-gamma", "negative_binomial_regressions",
    "one_slope_in_the_plane", "gamma_regressions", "unequal_spread", "weibull", "tomography", "poisson_exposure",
    "multinomial_mixture", "hurdle-poisson", "dirichlet", "regression-logistic", "poisson_regressions",
    "tutorial_mixture", "shrunken_regressions", "gamma_means", "hmm_stationary",
)  # fmt: skip
"""What those have not: a unit, a form, an argument of a family with its kind of M-step, a solver."""

VARIED = tuple(name for name in EVERYTHING if name in (*STRUCTURES, *KINDS))
"""Names of the programs and of the models of the zoo, in their order."""

PROGRAMS = tuple(name for name in VARIED if name in NAMES)
"""Those of the programs."""


def kinds(built: Built) -> set[tuple[str, ...]]:
    """Return which ways through the engine and the M-step a program takes."""
    engine, plan = built.compiled, built.plan
    return {
        *(("unit", type(unit).__name__, "several" if len(unit.absorbed) > 1 else "one") for unit in engine.units),
        *(("form", type(site.form).__name__) for site in engine.sites.values()),
        *(("part", type(part).__name__) for part in engine.parts),
        *(("M-step", line.how, line.role) for line in plan.lines.values()),
        *(("solver", type(solver).__name__) for solver in plan.solvers),
        *(("climb", "several" if len(climb.names) > 1 else "one") for climb in plan.climbs),
        *(("prior",) for _ in engine.priors),
        *(("replayed",) for _ in engine.replayed),
        *(("idle entries",) for _ in engine.alive),
    }
