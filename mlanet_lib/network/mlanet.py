"""MLANet: one crop of a face in, named face parameters out.

    timm backbone (strides 4, 8, 16, 32) -> attention at each chosen level -> hierarchical fusion (coarse gates fine)
    -> pooled per level -> one linear head per parameter group, which weighs the levels by learned weights (fusion
       "hierarchical") or reads them side by side ("hierarchical_concatenate")
    -> feedback: features of the finer levels where the face's points were drawn move them to where they are

The paper's backbone, attention, fusion and heads are not known. This network is an assumption of the project, and each
choice in it is a field of `NetworkConfig` that the ablation can vary.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import DEFAULT_FOCAL, rotation_6d_to_matrix
from mlanet_lib.limits import FieldError, Range, check_fields
from mlanet_lib.network.attention import ATTENTION_KINDS, FUSION_KINDS, CoarseGate, energy_map, level_attention
from mlanet_lib.network.feedback import Feedback
from mlanet_lib.network.pretrained import load_backbone, normalisation
from mlanet_lib.parameters import FaceParameters

HEAD_INIT = 1e-5
"""Standard deviation of the heads' first weights: the mean face to within 1e-3, and yet a gradient for what lies
behind the heads from the first step on (with zeros, as in Deng et al. 2019, it would only come with the second)."""

HEAD_SCALE = {
    "identity": 0.3,
    "expression": 0.15,
    "albedo": 0.3,
    "rotation": 0.2,
    "translation": 0.05,
    "lighting": 0.1,
}
"""What a head's output is multiplied with, in the group's unit: about how far faces differ there, or less. AdamW moves
all weights by steps of one size, which would otherwise be far too long for the translation (and, of L levels side by
side, sqrt(L) times as far: they are divided by that). It matters much: 600 steps
of a ResNet-10-T at 64 px on real photos end at a validation NME of 5.35 % with it and at 6.6 % without."""

_FEATURES: dict[str, Any] = {"features_only": True, "feature_cls": "getter"}  # without what follows the last level


@dataclass(frozen=True)
class NetworkConfig:
    """The choices that make a network, each one an assumption (the paper's are not known).

    backbone: a timm name; pretrained: start from ImageNet weights if they are available; levels: which of 1..4
    (strides 4, 8, 16, 32) are read; attention, fusion: see `attention.py`; image_size: side of the crops it is trained
    on, px; width: channels of a level after its attention; pool: side of the grid that a level is pooled to (1 = global
    average); feedback: steps of `Feedback` behind the heads; patch: side of what they read around each point, odd;
    focal: the camera's, in picture widths; start: a checkpoint that a training begins with (`resume.begin_from`; making
    a network does not read it).
    """

    backbone: str = "resnet18"
    pretrained: bool = False
    levels: tuple[Annotated[int, Range(1, 4)], ...] = (1, 2, 3, 4)
    attention: str = "channel_spatial"
    fusion: str = "hierarchical"
    image_size: Annotated[int, Range(8, 10**6)] = 96
    width: Annotated[int, Range(1, 10**5)] = 64
    pool: Annotated[int, Range(1, 10**4)] = 4
    feedback: Annotated[int, Range(0, 8)] = 0
    patch: Annotated[int, Range(1, 9)] = 1
    focal: Annotated[float, Range(0, 1000, above=True)] = DEFAULT_FOCAL
    start: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "levels", tuple(sorted(set(self.levels))))
        if not self.levels:
            raise FieldError("levels = []: must be some of 1, 2, 3, 4 (strides 4 to 32)")
        if self.patch % 2 == 0:
            raise FieldError(f"patch = {self.patch}: must be odd, so that it has a middle")
        if self.attention not in ATTENTION_KINDS:
            raise UserError(f"unknown attention {self.attention!r}; choose one of {', '.join(ATTENTION_KINDS)}")
        if self.fusion not in FUSION_KINDS:
            raise UserError(f"unknown fusion {self.fusion!r}; choose one of {', '.join(FUSION_KINDS)}")
        import timm

        if not timm.is_model(self.backbone):
            raise UserError(f"timm {timm.__version__} has no backbone {self.backbone!r}")


class MLANet(nn.Module):
    """The network: images (B, 3, H, W) in [0, 1] -> `FaceParameters` of one face model.

    model: the `MorphableModel` whose coefficients are predicted (its sizes and its neutral framing are read; it is not
    kept). config, or its fields as keywords: see `NetworkConfig`; a wrong value is a UserError. `pretrained_weights`
    holds one line on the source of the backbone's first weights.
    """

    backbone: Any  # timm's feature extractor
    pixel_mean: Tensor
    pixel_std: Tensor
    neutral_rotation: Tensor
    neutral_translation: Tensor
    neutral_lighting: Tensor
    head_scale: Tensor

    def __init__(self, model: MorphableModel, config: NetworkConfig | None = None, **options: Any) -> None:
        super().__init__()
        self.config = dataclasses.replace(config or NetworkConfig(), **options)
        self._frozen: list[nn.Module] = []
        self.backbone, self.pretrained_weights = make_backbone(self.config)
        width, pool = self.config.width, self.config.pool
        channels = self.backbone.feature_info.channels()
        from timm.layers import ConvNormAct

        count = len(channels)
        fused = count - 1 if self.config.fusion.startswith("hierarchical") else 0
        self.attention = nn.ModuleList(level_attention(c, self.config.attention) for c in channels)
        self.project = nn.ModuleList(ConvNormAct(c, width, 1, act_layer=nn.SiLU) for c in channels)
        self.gates = nn.ModuleList(CoarseGate(width) for _ in range(fused))
        self.side_by_side = self.config.fusion.endswith("concatenate")
        self.sizes = {
            "identity": model.n_identity,
            "expression": model.n_expression,
            "albedo": model.n_albedo,
            "rotation": 6,
            "translation": 3,
            "lighting": 27,
        }
        read = width * pool**2 * (count if self.side_by_side else 1)
        self.heads = nn.ModuleDict({name: nn.Linear(read, size) for name, size in self.sizes.items()})
        logits = torch.zeros(len(self.sizes), count)
        self.per_step = min(2, count)  # levels that a step of feedback reads
        self.feedback = nn.ModuleList(
            Feedback(model, [width] * self.per_step, self.config.patch) for _ in range(self.config.feedback)
        )
        if count > 1 and not self.side_by_side:
            self.level_logits = nn.Parameter(logits)
        else:  # one level's weight is 1 whatever its logit, and of concatenated levels the heads read all
            self.register_buffer("level_logits", logits)
        neutral = FaceParameters.neutral(model, 1, focal=self.config.focal)
        mean, std = normalisation(self.backbone)
        self.register_buffer("pixel_mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("neutral_translation", neutral.translation[0].detach().float().cpu())
        self.register_buffer("neutral_lighting", neutral.lighting[0].detach().float().cpu(), persistent=False)
        scale = torch.tensor([HEAD_SCALE[name] for name in self.sizes])
        self.register_buffer("head_scale", scale / count**0.5 if self.side_by_side else scale)
        self.register_buffer("neutral_rotation", torch.tensor([1.0, 0, 0, 0, 1.0, 0]), persistent=False)
        heads: list[Any] = list(self.heads.values())
        for head in heads:
            nn.init.normal_(head.weight, std=HEAD_INIT)
            nn.init.zeros_(head.bias)

    def freeze(self, levels: int) -> None:
        """Keep the backbone up to its first so many levels as it is from now on: weights and batch statistics. A level
        counts whether it is read or not."""
        infos = _all_features(self.config.backbone).get_dicts() if levels else []
        ends = [info["module"] for info in infos if info["reduction"] <= 2 ** (levels + 1)]
        names = [name for name, _ in self.backbone.named_parameters()]
        parts = [name for name in names if ends and f".{ends[-1]}." in f".{name}"]
        last = names.index(parts[-1]) if parts else -1
        self._frozen = []
        for name in names[: last + 1]:
            module = self.backbone.get_submodule(name.rpartition(".")[0])
            self._frozen.append(module.requires_grad_(False))
        self.train(self.training)

    def train(self, mode: bool = True) -> "MLANet":
        """As of any module; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def level_features(self, images: Tensor) -> list[Tensor]:
        """(B, width, H/stride, W/stride) per level, fine to coarse, after attention and fusion."""
        return self._attended(self._features(images))

    def _features(self, images: Tensor) -> list[Tensor]:
        return self.backbone((images - self.pixel_mean) / self.pixel_std)

    def _attended(self, features: list[Tensor]) -> list[Tensor]:
        levels = [project(attend(x)) for project, attend, x in zip(self.project, self.attention, features, strict=True)]
        for k in reversed(range(len(self.gates))):  # coarse to fine
            levels[k] = self.gates[k](levels[k], levels[k + 1])
        return levels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The tensors of `FaceParameters` by name, the mean face at the start; of B images (B, 3, H, W) in [0, 1].

        In training, if there is feedback, also what its steps saw, (B, steps, 68, 2) in crop sides, of the points of
        `Feedback`: "early", where they were drawn before each step, and "points", where the step says that they are.
        """
        return self.finish(*self.read(images))

    def read(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The part of `forward` that is read off the pictures: the heads' outputs by group, (B, size), differences from
        the mean face, all zero at the start; and the `Feedback.maps` of each step, one after the other."""
        levels = self._attended(self._features(images))
        with torch.autocast(images.device.type, enabled=False):
            full = [level.to(self.pixel_mean.dtype) for level in levels]
            maps: list[Tensor] = []
            for k, step in enumerate(self.feedback, 1):
                maps += cast(Feedback, step).maps(self._read_by(k, full))
            return self._heads(levels), maps

    def finish(self, raw: dict[str, Tensor], maps: list[Tensor]) -> dict[str, Tensor]:
        """The rest of `forward`, from the results of `read`."""
        with torch.autocast(raw["identity"].device.type, enabled=False):
            found = self.face_parameters(raw)
            early, points = [], []
            for k, step in enumerate(self.feedback):
                found, drawn, seen = step(maps[k * self.per_step : (k + 1) * self.per_step], found)
                early.append(drawn)
                points.append(seen)
            outputs = found.as_tensors()
            if self.training and early:
                outputs |= {"early": torch.stack(early, 1), "points": torch.stack(points, 1)}
        return outputs

    def _read_by(self, step: int, levels: list[Tensor]) -> list[Tensor]:
        """The two levels that a step of feedback reads, or as many as there are: each step finer ones, the last the
        finest."""
        first = min(self.config.feedback - step, max(0, len(levels) - 2))
        return levels[first : first + 2]

    def _heads(self, levels: list[Tensor]) -> dict[str, Tensor]:
        grids = [F.adaptive_avg_pool2d(level, self.config.pool).flatten(1) for level in levels]
        # without this normalisation a level could shout down another whatever the weights that are reported
        pooled = torch.stack([F.layer_norm(grid.float(), grid.shape[1:]) for grid in grids], 1)
        weights = self.level_logits.softmax(1)
        return {
            name: self.head_scale[k]
            * head(pooled.flatten(1) if self.side_by_side else torch.einsum("l,bld->bd", weights[k], pooled))
            for k, (name, head) in enumerate(self.heads.items())
        }

    def encode(self, images: Tensor) -> FaceParameters:
        """images (B, 3, H, W) in [0, 1], a square crop around the face -> its parameters."""
        return FaceParameters.from_tensors(self(images))

    def face_parameters(self, raw: dict[str, Tensor]) -> FaceParameters:
        """The parameters of B faces from the heads' raw outputs by group, (B, size) each.

        identity, expression, albedo: the heads' outputs, unchanged. rotation: Gram-Schmidt (Zhou et al. 2019) of the
        identity's 6D form plus the output. lighting: white ambient light plus the output. Translation is predicted as
        an offset (u, v) in the picture plane, in crop sides, and a logarithmic scale s, because depth and offset in
        millimetres depend on each other and are badly conditioned:

            t_z = n_z exp(-s),   t_x = (n_x / n_z + u / focal) t_z,   t_y = (n_y / n_z + v / focal) t_z

        n is the neutral framing: at u = v = s = 0 the mean face fills the crop.
        """
        batch = raw["identity"].shape[0]
        neutral, focal = self.neutral_translation, self.config.focal
        offset, scale = raw["translation"][:, :2], raw["translation"][:, 2:]
        depth = neutral[2] * torch.exp(-scale.clamp(-3, 3))
        return FaceParameters(
            identity=raw["identity"],
            expression=raw["expression"],
            albedo=raw["albedo"],
            rotation=rotation_6d_to_matrix(self.neutral_rotation + raw["rotation"]),
            translation=torch.cat([(neutral[:2] / neutral[2] + offset / focal) * depth, depth], 1),
            lighting=self.neutral_lighting + raw["lighting"].reshape(batch, 9, 3),
            focal=depth.new_full((batch,), focal),
        )

    def attention_maps(self, images: Tensor) -> list[Tensor]:
        """Where each level looks: (B, H/stride, W/stride) in [0, 1] per level, fine to coarse (`energy_map`)."""
        return [energy_map(level) for level in self.level_features(images)]

    def level_weights(self) -> dict[str, Tensor]:
        """How much each parameter group reads from each level: {group: (levels,)}, every row sums to 1.

        The features are normalised before they are weighted, so that the weights are comparable across levels. If a
        head reads the levels side by side (fusion "...concatenate"): each level's share of the sum of its squared
        weights.
        """
        if self.side_by_side:
            shape = (-1, len(self.config.levels), self.config.width * self.config.pool**2)
            squares = {n: h.get_parameter("weight").detach().square().view(shape) for n, h in self.heads.items()}
            return {name: square.sum((0, 2)) / square.sum() for name, square in squares.items()}
        weights = self.level_logits.detach().softmax(1)
        return {name: weights[k] for k, name in enumerate(self.sizes)}


def make_backbone(config: NetworkConfig) -> tuple[Any, str]:
    """timm's feature extractor that returns the chosen levels, and where its weights came from (`load_backbone`).

    With random weights, norms that timm starts at zero (the last of each ResNet block) start at 0.1, so that the branch
    before them has a gradient from the first step on.
    """
    import timm

    options, reason = backbone_options(config), ""
    if config.pretrained:
        try:
            return load_backbone(config.backbone, options)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            print(f"no pretrained weights for {config.backbone}, random ones instead: {reason}", flush=True)
    backbone: Any = timm.create_model(config.backbone, **options)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.constant_(module.weight, 0.1)
    return backbone, f"random (pretrained ones were not to be had: {reason})" if reason else "random"


def backbone_options(config: NetworkConfig) -> dict[str, Any]:
    """The arguments of `timm.create_model` for the chosen levels; UserError if the backbone lacks one of them."""
    strides = _all_features(config.backbone).reduction()
    wanted = [2 ** (level + 1) for level in config.levels]
    if not set(wanted) <= set(strides):
        raise UserError(f"backbone {config.backbone} has features of strides {strides}, not {wanted}")
    return _FEATURES | {"out_indices": tuple(strides.index(stride) for stride in wanted)}


def _all_features(name: str) -> Any:
    """timm's description of all features of a backbone, finest first."""
    import timm

    with torch.device("meta"):
        backbone: Any = timm.create_model(name, **_FEATURES)
    return backbone.feature_info
