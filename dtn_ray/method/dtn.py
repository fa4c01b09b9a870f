"""The Domain Transfer Network (Sec. 4): f, g, D, and one training step. Only torch.

G = g ∘ f
L_G = L_GANG + α L_CONST + β L_TID + γ L_TV      minimised over g
L_D                                              minimised over D
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from dtn_ray.method import losses
from dtn_ray.method.augment import augment
from dtn_ray.method.features import FrozenF
from dtn_ray.method.options import LossConfig, OptimConfig
from dtn_ray.method.precision import autocast
from dtn_ray.models.layers import PerDomain

R1_EVERY = 4  # updates of D between penalties; Karras et al. (2020) use 16, in far longer trainings
Wrap = Callable[[nn.Module], nn.Module]


class DTN(nn.Module):
    """The three networks (and D2 if d2 is a second GAN).

    `with_f=False` is Table 1's "G does not contain f": g is then a network from images to images, and f is used only in
    L_CONST. With `binary=True` D has the two classes of Eq. 1 and G(t) is not used: the baseline of Sec. 3.
    """

    def __init__(
        self,
        f: FrozenF,
        g: nn.Module,
        D: nn.Module,
        *,
        D2: nn.Module | None = None,
        with_f: bool = True,
        binary: bool = False,
    ) -> None:
        super().__init__()
        self.f, self.g, self.D, self.D2 = f, g, D, D2
        self.with_f, self.binary = with_f, binary

    def G(self, x: Tensor, of_t: bool = False) -> Tensor:
        """G = g ∘ f: images N×C×H×W in [-1, 1] of s, or of t, to images of the target domain in [-1, 1]."""
        return self.g(self.f(x, of_t) if self.with_f else x)

    @staticmethod
    def as_drawn(t: Tensor, G_x: Tensor) -> Tensor:
        """Images of t N×C×H×W at the resolution of G's.

        They are the real images in D's input, because D could otherwise recognise them by their resolution, and L_TID
        compares G(t) with them. The input of f is t at its own resolution.
        """
        return t if t.shape[-1] == G_x.shape[-1] else F.interpolate(t, G_x.shape[-2:], mode="area")


class DTNTrainer:
    """The networks with their optimisers; `step` is one update of D and one of g.

    `wrap` makes a network data-parallel (and moves it to its device); by default networks are not wrapped. g and D are
    each called once per update, with the batches of all domains, because data-parallel wrappers count calls.
    """

    def __init__(
        self,
        dtn: DTN,
        loss: LossConfig,
        optim: OptimConfig,
        device: torch.device | str = "cpu",
        wrap: Wrap | None = None,
    ) -> None:
        self.dtn, self.loss, self.optim, self.device = dtn.to(device), loss, optim, torch.device(device)
        if optim.channels_last:
            dtn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        wrap = wrap or (lambda network: network)

        def prepare(network: nn.Module) -> nn.Module:
            return wrap(PerDomain(network, optim.separate_batches))

        def maybe_compile(network: nn.Module) -> nn.Module:
            return torch.compile(network) if optim.compile else network  # type: ignore[return-value]

        self.D_twice_differentiable = prepare(dtn.D)  # compiled networks are not
        self.f, self.g, self.D = (
            maybe_compile(dtn.f),
            maybe_compile(prepare(dtn.g)),
            maybe_compile(self.D_twice_differentiable),
        )
        self.D2 = maybe_compile(prepare(dtn.D2)) if dtn.D2 is not None else None
        self.D_for_g = maybe_compile(PerDomain(dtn.D, optim.separate_batches))

        def adam(network: nn.Module, lr: float) -> torch.optim.Adam:
            return torch.optim.Adam(network.parameters(), lr=lr, betas=(optim.beta1, 0.999))

        self.optimizers: dict[str, Optimizer] = {"g": adam(dtn.g, optim.lr_g), "D": adam(dtn.D, optim.lr_D)}
        if dtn.D2 is not None:
            self.optimizers["D2"] = adam(dtn.D2, optim.lr_D)
        self.ema = AveragedModel(dtn.g, avg_fn=ema_with_warm_up(optim.ema_decay)) if optim.ema_decay else None

    def step(self, s: Tensor, t: Tensor, step: int) -> dict[str, Tensor]:
        """One update of D (Eq. 3), if it is due at this step, then one of g (Eqs. 4-7).

        `s`, `t`: float batches N×C×H×W in [-1, 1].
        Returns all loss terms without their weights, as detached scalars on the device. Reading them waits for the
        device, so do not read them at every step.
        """
        s, t = self._to_device(s), self._to_device(t)
        for name, optimizer in self.optimizers.items():
            lr = self.optim.lr_g if name == "g" else self.optim.lr_D
            optimizer.param_groups[0]["lr"] = lr * self.optim.rate(step)

        warming_up = step < self.loss.warm_up
        # G(x) for x in s and in t. The baseline does not need G(t), and the warm-up does not need G(s).
        x = {False: s} if self.dtn.binary else {True: t} if warming_up else {False: s, True: t}
        with self._autocast():
            with torch.no_grad():
                f_x = [self.f(images, of_t) for of_t, images in x.items()]
            G_x = [image.float() for image in self.g(*(f_x if self.dtn.with_f else x.values()))]
        t = self.dtn.as_drawn(t, G_x[-1])
        if warming_up:
            return self._warm_up(G_x[0], t)
        metrics: dict[str, Tensor] = {}

        # Update D on G's images, detached so that no gradient reaches g.
        if self.loss.gan and step % self.optim.D_every == 0:
            metrics |= self._update_D([image.detach() for image in G_x], t, step)
        if self.D2 is not None:
            metrics |= self._update_D2(G_x[1].detach(), t)

        # Update g against the new D: gradients pass through D and f, and stay out of their weights.
        terms = self._terms_of_L_G(G_x, f_x[0], t)
        weights = {
            "L_gan_g": self.loss.gan,
            "L_const": self.loss.alpha_at(step),
            "L_tid": self.loss.beta,
            "L_tv": self.loss.gamma,
        }
        L_g = sum(
            (weights[name] * term for name, term in terms.items() if weights[name]), torch.zeros((), device=s.device)
        )
        self._update_g(L_g)
        metrics |= {name: term.detach() for name, term in terms.items()}
        return metrics | {"L_g": L_g.detach()}

    def _warm_up(self, G_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        L_tid = losses.L_tid(t, G_t)
        L_tv = losses.L_tv(G_t, self.loss.tv_exponent, self.loss.tv_reduction)
        L_g = self.loss.beta * L_tid + self.loss.gamma * L_tv
        self._update_g(L_g)
        return {"L_tid": L_tid.detach(), "L_tv": L_tv.detach(), "L_g": L_g.detach()}

    def _update_g(self, L_g: Tensor) -> None:
        self._minimise("g", L_g)
        if self.ema is not None:
            self.ema.update_parameters(self.dtn.g)

    def _update_D(self, G_x: list[Tensor], t: Tensor, step: int) -> dict[str, Tensor]:
        seen = [augment(images, self.loss.augment_D) for images in (*G_x, t)]
        penalised = bool(self.loss.r1) and step // self.optim.D_every % R1_EVERY == 0
        if penalised:
            seen[-1] = seen[-1].detach().requires_grad_()
        D = self.D_twice_differentiable if penalised else self.D
        with self._autocast():
            logits = [value.float() for value in D(*seen)]
        L_d = losses.R_gan(*logits) if self.dtn.binary else losses.L_d(*logits)
        if not penalised:
            self._minimise("D", L_d)
            return {"L_d": L_d.detach()}
        R_1 = losses.R_1(logits[-1], seen[-1])
        # The weight compensates for the updates without the penalty.
        self._minimise("D", L_d + R1_EVERY * self.loss.r1 * R_1)
        return {"L_d": L_d.detach()}

    def _update_D2(self, G_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        assert self.D2 is not None
        with self._autocast():
            same, pair = (value.float() for value in self.D2(torch.cat([t, t], 1), torch.cat([t, G_t], 1)))
        L_d2 = losses.L_tid_gan_d(same, pair)
        self._minimise("D2", L_d2)
        return {"L_d2": L_d2.detach()}

    def _terms_of_L_G(self, G_x: list[Tensor], f_s: Tensor, t: Tensor) -> dict[str, Tensor]:
        """The terms of L_G before their weights; one whose weight is 0 is still measured, without gradients."""
        with frozen(self.dtn.D), frozen(self.dtn.D2), self._autocast():
            with torch.set_grad_enabled(bool(self.loss.gan)):
                seen = [augment(images, self.loss.augment_D) for images in G_x]
                logits = [value.float() for value in self.D_for_g(*seen)]
                L_gan_g = losses.R_gan_g(*logits) if self.dtn.binary else losses.L_gan_g(*logits)
            with torch.set_grad_enabled(bool(self.loss.alpha)):
                f_G_s = self.f(augment(G_x[0], self.loss.augment_G), True)
            terms = {"L_gan_g": L_gan_g, "L_const": losses.L_const(f_s, f_G_s, self.loss.d)}
            if not self.dtn.binary:
                terms["L_tid"] = (
                    losses.L_tid(t, G_x[1])
                    if self.dtn.D2 is None
                    else losses.L_tid_gan(self.dtn.D2(torch.cat([t, G_x[1]], 1)).float())
                )
            terms["L_tv"] = losses.L_tv(torch.cat(G_x), self.loss.tv_exponent, self.loss.tv_reduction)
        return terms

    def _minimise(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            optimizer.step()

    def _to_device(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        return images.contiguous(memory_format=torch.channels_last) if self.optim.channels_last else images

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.optim.bf16)


def ema_with_warm_up(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Averaging rule for AveragedModel: after n updates the newest weights count 2/(n + 2), later 1 - `decay`.

    Before it reaches 1 - `decay`, step i has a weight proportional to i (Shamir & Zhang 2013, η = 1). The random start
    is thus soon forgotten, while the average is as long as the run allows. A long average is needed because G changes
    whole classes from one hundred steps to the next.
    """

    def average(ema: Tensor, weight: Tensor, n: Tensor | int) -> Tensor:
        return ema.lerp(weight, max(1 - decay, 2 / (int(n) + 2)))

    return average


@contextmanager
def frozen(network: nn.Module | None) -> Iterator[None]:
    """Keeps gradients out of a network's weights while they still flow through it to its input."""
    parameters = list(network.parameters()) if network is not None else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@torch.no_grad()
def recalibrate(g: nn.Module, inputs: Tensor, batch_size: int = 500) -> None:
    """Sets g's batch norm statistics to those of `inputs` (f(x) for x in s) alone; each input counts the same.

    Trained on s and t in separate passes, g's running statistics are a mixture of both domains', while conversion sees
    s only; and an average of g's weights has no statistics of its own at all.

    The inputs pass in batches of about equal size, at most `batch_size`. A batch counts in proportion to its size:
    torch's `update_bn` counts all batches alike, so that an input of a small last batch would count many times.
    """
    layers = [layer for layer in g.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    mode, momenta = g.training, [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
    g.train()
    passed = 0
    for batch in inputs.tensor_split(math.ceil(len(inputs) / batch_size)):
        passed += len(batch)
        for layer in layers:
            layer.momentum = len(batch) / passed  # the running statistics are then the mean over all that passed
        g(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    g.train(mode)


def collapse_warning(L_d: float, L_gan_g: float, rested: bool = False) -> str | None:
    """A warning if both losses are at chance (3 ln 3 and 2 ln 3), so that g learns nothing from D; otherwise None.

    Also None if D has `rested` until recently (`LossConfig.D_has_rested`), because D begins at chance.
    """
    if rested:
        return None
    at_chance = abs(L_d - 3 * math.log(3)) < 0.05 and abs(L_gan_g - 2 * math.log(3)) < 0.05
    if not at_chance:
        return None
    return (
        f"D has collapsed: L_d {L_d:.3f} ≈ 3 ln 3 and L_gan_g {L_gan_g:.3f} ≈ 2 ln 3, which is chance. "
        "Raise --lr-D or lower --lr-g, and check that s and t are the sets that you intended."
    )
