"""All domains, and the networks of an experiment. A new domain is a module beside digits.py, and a line here."""

from dtn_ray.method.dtn import DTN
from dtn_ray.method.features import FrozenF
from dtn_ray.train.digits import DIGITS
from dtn_ray.train.domain import Domain
from dtn_ray.train.faces import FACES
from dtn_ray.train.options import Experiment

DOMAINS = {domain.name: domain for domain in (DIGITS, FACES)}


def domain_of(experiment: Experiment) -> Domain:
    """The domain of an experiment."""
    return DOMAINS[experiment.model.kind]


def build_dtn(experiment: Experiment, f: FrozenF) -> DTN:
    """The networks of an experiment around f, with g and D freshly initialised."""
    return domain_of(experiment).build(experiment, f)
