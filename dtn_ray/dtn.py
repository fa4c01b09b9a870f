"""The Domain Transfer Network (Sec. 4): f, g, D, and one training step. Pure torch.

G = g ∘ f
L_G = L_GANG + α L_CONST + β L_TID + γ L_TV      minimised over g
L_D                                              minimised over D
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn

from dtn_ray import losses
from dtn_ray.bounds import AtLeastOne, Count, NotNegative, Share
from dtn_ray.data.augment import Augment, augment
from dtn_ray.models.layers import PerDomain

SHRINKAGE = 0.05  # of covariances towards the identity: some thousand images leave the least directions to chance
R1_EVERY = 4  # updates of D; Karras et al. (2020) take it each 16th, in far longer trainings

Schedule = Literal["constant", "linear", "cosine"]
Wrap = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class LossConfig:
    """The terms of L_G and their weights; the defaults are the paper's for digits."""

    alpha: float = 15.0
    """α, the weight of L_CONST (Eq. 5)."""
    beta: float = 15.0
    """β, the weight of L_TID (Eq. 6)."""
    gamma: float = 0.0
    """γ, the weight of L_TV (Eq. 7)."""
    gan: float = 1.0
    """Weight of L_GANG; the paper's is 1, and 0 gives its ablation without L_D and L_GANG."""
    d: losses.FeatureDistance = "mse"
    """d of Eq. 5."""
    d2: losses.ImageDistance = "mse"
    """d2 of Eq. 6; gan is a second discriminator on the pair (x, G(x))."""
    tv_exponent: float = 1.0
    """B of Eq. 7."""
    tv_reduction: losses.Reduction = "mean"
    """Whether Eq. 7 adds pixels up, as printed, or takes their mean."""
    augment_G: Augment = field(default_factory=Augment)
    """Random changes to G(x) before f in L_CONST, against fine patterns that only f can see; the paper makes none."""
    augment_D: Augment = field(default_factory=Augment)
    """Random changes to all that D sees, real or not (Zhao et al. 2020), against D's learning a small t by heart; the
    paper makes none."""
    r1: float = 0.0
    """Weight of D's gradient penalty on t (Mescheder et al. 2018), taken at each R1_EVERY-th update; the paper has
    none."""
    warm_up: Count = 0
    """First steps in which g minimises L_TID and L_TV alone, and D rests: g draws t before it is told what to draw. The
    paper has none."""
    ramp: Count = 0
    """Steps after those in which α grows from 0 to its weight: a g whose images D tells from t at a glance is otherwise
    drawn to patterns that f alone sees. The paper has none."""

    def D_has_rested(self, step: int) -> bool:
        """Whether D rests at a step (from 0), or has learned for fewer steps than it rested."""
        return step < 2 * self.warm_up

    def alpha_at(self, step: int) -> float:
        """α at a step (from 0)."""
        return self.alpha * min(1.0, (step + 1 - self.warm_up) / self.ramp) if self.ramp else self.alpha


@dataclass(frozen=True)
class Moments:
    """Of f's features over a domain."""

    mean: Tensor | None
    """One number for each feature; None where it is not taken off."""
    scale: float
    """The root of their mean variance."""
    covariance: Tensor | None = None
    """features×features."""


class FrozenF(nn.Module):
    """f as the DTN uses it: fixed weights, always in eval mode, its features in a unit of their own.

    Gradients flow through it to its input, never into its weights: L_CONST reaches g through f(G(x)), not f.
    `scale` (a buffer, one number) sets the unit in which d measures: α means the same for any f once the features have
    unit variance over s. The paper's α was tuned to the features of its own f, whose scale it does not tell.

    With `domains` (the moments of s and of t), each domain's features have its own mean taken off and are divided by
    its own scale. It is the simplest "explicit domain adaptation step" of Sec. 6, which the paper found unnecessary for
    its f, and which others need: where all of t lies on one side of s, as emoji do for a face network, L_CONST asks G
    above all for what no image of t can give, and g sees of s nothing that it learned from t.

    With `transport` (features×features) as well, s's features are also multiplied by it, and have t's covariance then:
    for a t that differs in fewer ways than s, as drawn avatars do, g would meet directions that t never showed it.

    With `domains` and an `exaggeration` above 1, s's features lie so many times as far from their mean, in g's input as
    in L_CONST, as caricatures have it (Brennan 1985): what f(G(x)) has of x then outweighs what it has of no photo.
    """

    scale: Tensor
    mean_s: Tensor | None
    mean_t: Tensor | None
    scale_t: Tensor | None
    transport: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        scale: float = 1.0,
        domains: tuple[Moments, Moments] | None = None,
        transport: Tensor | None = None,
        exaggeration: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        s, t = domains or (Moments(None, scale), Moments(None, scale))
        self.register_buffer("scale", torch.tensor(float(s.scale) / exaggeration))
        self.register_buffer("mean_s", s.mean if s.mean is None else s.mean.clone())
        self.register_buffer("mean_t", t.mean if t.mean is None else t.mean.clone())
        self.register_buffer("scale_t", torch.tensor(float(t.scale)) if domains else None)
        self.register_buffer("transport", transport)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenF":
        return super().train(False)

    def forward(self, x: Tensor, of_t: bool = False) -> Tensor:
        """f(x) in its unit: images N×C×H×W in [-1, 1] of s, or of t as G's are, to N×features."""
        features: Tensor = self.network.represent(x).float()  # type: ignore[operator]
        if self.mean_s is None or self.mean_t is None or self.scale_t is None:
            return features / self.scale
        if of_t:
            return (features - self.mean_t) / self.scale_t
        features = (features - self.mean_s) / self.scale
        return features if self.transport is None else features @ self.transport


class DTN(nn.Module):
    """The three networks (and D2 where d2 is a second GAN).

    `with_f=False` is Table 1's "G does not contain f": g is then a network from images to images, and f serves
    L_CONST alone. With `binary=True` D has the two classes of Eq. 1 and G(t) plays no part: the baseline of Sec. 3.
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

        D sees them so, or resolution alone would give the real ones away, and L_TID compares with them so; f sees t as
        it is.
        """
        return t if t.shape[-1] == G_x.shape[-1] else F.interpolate(t, G_x.shape[-2:], mode="area")


@dataclass(frozen=True)
class OptimConfig:
    """How L_G and L_D are minimised. The paper says Adam and no more; the rest is Radford et al.'s (2015) or ours."""

    batch_size: AtLeastOne = 64
    """Images of s, and as many of t, in one step over all workers."""
    steps: Count = 6000
    """Training steps; each updates g once, and D once or as D_every says."""
    D_every: AtLeastOne = 1
    """Update D in each so-many-th step only, where it outruns g; the paper does not tell its ratio."""
    lr_g: NotNegative = 2e-4
    """Adam's learning rate for g."""
    lr_D: NotNegative = 2e-4
    """Adam's learning rate for D."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's β1, for g and D."""
    schedule: Schedule = "constant"
    """How both rates fall over the run: constant, linear to zero, or cosine to zero."""
    separate_batches: bool = True
    """Pass s, t and real images through batch norm one domain at a time."""
    ema_decay: Share = 0.0
    """Decay of the running average of g's weights that is kept beside g and used for conversion; 0 keeps none."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast); weights and losses stay float32."""
    channels_last: bool = True
    """Keep images and filters in memory as N×H×W×C, which convolutions prefer; changes speed only."""
    compile: bool = False
    """Compile f, g and D with torch.compile."""

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step (from 0), by `schedule`."""
        done = min(step / max(self.steps, 1), 1.0)
        factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return factors[self.schedule]


class DTNTrainer:
    """The networks with their optimisers; `step` is one update of D and one of g.

    `wrap` makes a network data-parallel (and moves it to its device); the default leaves it as it is. g and D are
    called once per update each, with all the domains' batches, because data-parallel wrappers count calls.
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
        """One update of D (Eq. 3) where it is due, then one of g (Eqs. 4-7).

        `s`, `t`: float batches N×C×H×W in [-1, 1].
        Returns every loss term before its weight, detached scalars on the device: reading them waits for the device,
        so read them seldom.
        """
        s, t = self._to_device(s), self._to_device(t)
        for name, optimizer in self.optimizers.items():
            lr = self.optim.lr_g if name == "g" else self.optim.lr_D
            optimizer.param_groups[0]["lr"] = lr * self.optim.rate(step)

        warming_up = step < self.loss.warm_up
        # G(x) for x in s and in t. The baseline has no use for G(t), nor has the warm-up for G(s).
        x = {False: s} if self.dtn.binary else {True: t} if warming_up else {False: s, True: t}
        with self._autocast():
            with torch.no_grad():
                f_x = [self.f(images, of_t) for of_t, images in x.items()]
            G_x = [image.float() for image in self.g(*(f_x if self.dtn.with_f else x.values()))]
        t = self.dtn.as_drawn(t, G_x[-1])
        if warming_up:
            return self._warm_up(G_x[0], t)
        metrics: dict[str, Tensor] = {}

        # Update D on G's images as they are: no gradient reaches g.
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
        # As often as it is left out, so much heavier it weighs.
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
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.optim.bf16)


def ema_with_warm_up(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Averaging rule for AveragedModel: after n updates the newest weights count 2/(n + 2), in the end 1 - `decay`.

    Until that end step i weighs in proportion to i (Shamir & Zhang 2013, η = 1): the random start soon counts for
    nothing, and yet the average is as long as the run allows. That length matters: G changes whole classes from one
    hundred steps to the next, and only an average over several hundred evens that out.
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
def moments(network: nn.Module, batches: Iterable[Tensor]) -> Moments:
    """Of f's features over batches of images N×C×H×W in [-1, 1]; divided by that scale, they have unit variance."""
    features = torch.cat([network.represent(batch).float() for batch in batches])  # type: ignore[operator]
    return Moments(features.mean(0), float(features.var(dim=0).mean().sqrt()), torch.cov(features.T))


def transport(s: Moments, t: Moments) -> Tensor:
    """The linear map A under which z @ A has t's covariance for z of s's, and which moves z least on average.

    features×features, symmetric: the optimal transport between two Gaussians (Gelbrich 1990),
    A = Σs^-½ (Σs^½ Σt Σs^½)^½ Σs^-½, of each domain's covariance in its own unit, shrunk by SHRINKAGE.
    Whitening, which gives both one covariance too, would turn s's directions into others.
    """

    def shrunk(one: Moments) -> Tensor:
        assert one.covariance is not None
        covariance = one.covariance.double() / one.scale**2
        return (1 - SHRINKAGE) * covariance + SHRINKAGE * torch.eye(len(covariance), dtype=torch.double)

    def power(matrix: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp_min(1e-12) ** exponent) @ vectors.T

    root, inverse = power(shrunk(s), 0.5), power(shrunk(s), -0.5)
    return (inverse @ power(root @ shrunk(t) @ root, 0.5) @ inverse).float()


@torch.no_grad()
def recalibrate(g: nn.Module, inputs: Tensor, batch_size: int = 500) -> None:
    """Sets g's batch norm statistics to those of `inputs` (f(x) for x in s) alone.

    Trained on s and t in separate passes, g's running statistics are a mixture of both domains', while conversion sees
    s only; and an average of g's weights has no statistics of its own at all.
    """
    mode = g.training
    update_bn(inputs.split(batch_size), g)
    g.train(mode)


def collapse_warning(L_d: float, L_gan_g: float, rested: bool = False) -> str | None:
    """A warning where both losses sit at chance (3 ln 3 and 2 ln 3), so that g learns nothing from D; else None.

    None too where D has `rested` until lately (`LossConfig.D_has_rested`): at chance is where it begins.
    """
    if rested:
        return None
    at_chance = abs(L_d - 3 * math.log(3)) < 0.05 and abs(L_gan_g - 2 * math.log(3)) < 0.05
    if not at_chance:
        return None
    return (
        f"D has collapsed: L_d {L_d:.3f} ≈ 3 ln 3 and L_gan_g {L_gan_g:.3f} ≈ 2 ln 3, as if it guessed. "
        "Raise --lr-D or lower --lr-g, and check that s and t are what you meant."
    )
