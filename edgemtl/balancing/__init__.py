"""Balancing: how the tasks' losses are weighed against each other. One file a method; to add one, write its
file and name it in ``BalancingSpec``."""

from edgemtl.balancing.base import Balancer, Balancing, Losses
from edgemtl.balancing.fixed import Fixed

BalancingSpec = Fixed

__all__ = ["Balancer", "Balancing", "BalancingSpec", "Fixed", "Losses"]
