"""The interface of a perceptual network f, and of a judge."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Perceptual(nn.Module, ABC):
    """A network whose `represent` gives f(x): images N×C×H×W in [-1, 1] to N×`features`, with gradients to x.

    A new f is a subclass of this in its own module, and is registered in dtn_ray/perceptual/load.py.
    """

    features: int

    @abstractmethod
    def represent(self, x: Tensor) -> Tensor:
        """f(x), N×`features`."""
