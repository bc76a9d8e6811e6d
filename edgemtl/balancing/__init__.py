"""Balancing: how the tasks' losses are weighed against each other. One file a method; to add one, write its
file and name it in ``BalancingSpec``."""

from edgemtl.balancing.base import Balancer, Balancing, Losses
from edgemtl.balancing.dwa import DWA
from edgemtl.balancing.fixed import Fixed
from edgemtl.balancing.uncertainty import Uncertainty

BalancingSpec = Fixed | Uncertainty | DWA

__all__ = ["DWA", "Balancer", "Balancing", "BalancingSpec", "Fixed", "Losses", "Uncertainty"]
