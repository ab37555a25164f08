"""A face to play with in a notebook: sliders for identity, expression, pose and light, drawn live."""

import io
from collections.abc import Iterable
from typing import Any

import ipywidgets as ui
import numpy as np
import torch
from PIL import Image

from mlanet_lib.drawing.views import coloured, framed, textured
from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.lighting import ambient, directional
from mlanet_lib.parameters import FaceParameters

SHOWN_FIRST = ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft", "eyeBlinkRight", "browInnerUp")


def directional_light(azimuth: float, elevation: float, strength: float) -> torch.Tensor:
    """Lighting (1,9,3): white ambient light and a lamp at azimuth (to the image's right) and elevation, in degrees.

    `strength` in [0,1]: the lamp's share; at 0 there is ambient light alone.
    """
    a, e = np.radians([azimuth, elevation])
    towards = torch.tensor([[np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]], dtype=torch.float32)
    return ambient(1, 1 - 0.7 * strength) + directional(towards, torch.full((1, 3), strength))


class Explorer:
    """Sliders beside a picture. Show `.widget`; `.parameters` is the face as it stands, `.picture()` draws it.

    start: the face to begin with (a reconstruction, say), a batch of one; size: side of the picture in pixels. The
    first eight identity modes and the first four albedo modes have a slider.
    """

    def __init__(self, model: MorphableModel, start: FaceParameters, size: int = 256) -> None:
        self.model, self.size = model, size
        self.start = start.detach().clone()
        self.identity = {k: _slider(f"shape {k + 1}", -3, 3) for k in range(min(8, model.n_identity))}
        self.albedo = {k: _slider(f"skin {k + 1}", -3, 3) for k in range(min(4, model.n_albedo))}
        order = sorted(range(model.n_expression), key=lambda k: (model.expression_names[k] not in SHOWN_FIRST, k))
        self.expression = {k: _slider(model.expression_names[k], 0, 1) for k in order}
        limits = {"pitch": 60, "yaw": 90, "roll": 60}
        self.pose = {name: _slider(name, -limit, limit, step=1.0) for name, limit in limits.items()}
        self.light = {
            "azimuth": _slider("azimuth", -90, 90, 40, step=1.0),
            "elevation": _slider("elevation", -60, 80, 30, step=1.0),
            "strength": _slider("lamp", 0, 1, 0.6),
        }
        self.clay = ui.ToggleButton(value=False, description="clay", layout={"width": "88px"})
        self.image = ui.Image(format="jpeg", width=2 * size, height=2 * size)
        self._paused = False
        self.reset()
        groups = (self.identity, self.albedo, self.expression, self.pose, self.light)
        for control in (self.clay, *(slider for group in groups for slider in group.values())):
            control.observe(self._draw, "value")
        self.widget = self._layout()

    def _layout(self) -> ui.Widget:
        groups = {
            "identity": [*self.identity.values(), *self.albedo.values()],
            "expression": list(self.expression.values()),
            "pose and light": [*self.pose.values(), *self.light.values()],
        }
        boxes = [ui.VBox(sliders, layout={"max_height": "420px", "overflow": "auto"}) for sliders in groups.values()]
        tabs = ui.Tab(boxes, titles=list(groups), layout={"width": "424px"})
        buttons = [ui.Button(description=text, layout={"width": "88px"}) for text in ("random", "reset")]
        buttons[0].on_click(lambda _: self.randomize())
        buttons[1].on_click(lambda _: self.reset())
        return ui.HBox([ui.VBox([self.image, ui.HBox([*buttons, self.clay])]), tabs])

    def _of_the_face(self) -> dict[str, dict[int, ui.FloatSlider]]:
        """The sliders of the face itself, by the name of the parameter and the mode's number."""
        return {"identity": self.identity, "albedo": self.albedo, "expression": self.expression}

    @property
    def parameters(self) -> FaceParameters:
        """The face that the sliders describe (batch of one); modes without a slider keep the start's values."""
        values = {}
        for name, group in self._of_the_face().items():
            row = getattr(self.start, name).clone()
            for k, slider in group.items():
                row[0, k] = slider.value
            values[name] = row
        lighting = directional_light(*(self.light[name].value for name in ("azimuth", "elevation", "strength")))
        pitch, yaw, roll = (float(self.pose[name].value) for name in ("pitch", "yaw", "roll"))
        turned = framed(self.model, self.start.replace(**values), yaw, pitch)
        return turned.replace(rotation=euler_to_matrix(torch.tensor([[pitch, yaw, roll]])), lighting=lighting)

    def picture(self) -> np.ndarray:
        """The face as it stands, (size,size,3) uint8."""
        draw = coloured if self.clay.value else textured
        return draw(self.model, self.parameters, self.size)

    def randomize(self, seed: int | None = None) -> None:
        """Another person with another expression; pose and light stay."""
        rng = np.random.default_rng(seed)
        self._set([(slider, rng.normal()) for group in (self.identity, self.albedo) for slider in group.values()])
        chosen = rng.choice(list(self.expression), size=min(3, len(self.expression)), replace=False)
        self._set([(slider, rng.uniform(0.3, 1) * (k in chosen)) for k, slider in self.expression.items()])

    def reset(self) -> None:
        """Back to where it started."""
        pose = self.start.pose_degrees()[0].tolist()
        groups = self._of_the_face().items()
        values = [(s, float(getattr(self.start, name)[0, k])) for name, group in groups for k, s in group.items()]
        self._set([*values, *zip(self.pose.values(), pose, strict=True)])

    def _set(self, values: Iterable[tuple[ui.FloatSlider, float]]) -> None:
        self._paused = True  # one picture for all of them
        try:
            for slider, value in values:
                slider.value = float(np.clip(value, slider.min, slider.max))
        finally:
            self._paused = False
        self._draw()

    def _draw(self, _: Any = None) -> None:
        if self._paused:
            return
        stream = io.BytesIO()
        Image.fromarray(self.picture()).save(stream, "JPEG", quality=88)
        self.image.value = stream.getvalue()


def _slider(name: str, low: float, high: float, value: float = 0.0, step: float = 0.05) -> ui.FloatSlider:
    look = {"style": {"description_width": "136px"}, "layout": {"width": "354px"}}
    return ui.FloatSlider(value=value, min=low, max=high, step=step, description=name, **look)
