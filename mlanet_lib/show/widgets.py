"""A face to play with in a notebook: sliders for identity, expression, pose and light, drawn live."""

import io

import ipywidgets as ui
import numpy as np
import torch
from PIL import Image

from mlanet_lib.drawing.views import coloured, framed, textured
from mlanet_lib.face_model import MorphableModel
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

    model: the face model; size: side of the picture in pixels; identities: how many identity (and half as many albedo)
    modes get a slider; start: a FaceParameters batch of one to begin with (a reconstruction, say).
    """

    def __init__(
        self, model: MorphableModel, size: int = 256, identities: int = 8, start: FaceParameters | None = None
    ):
        self.model, self.size = model, size
        self.start = FaceParameters.neutral(model, 1) if start is None else start.detach().clone()
        pose = [0.0, 0.0, 0.0] if start is None else start.pose_degrees()[0].tolist()
        self.identity = self._sliders(self.start.identity[0], identities, "shape", -3, 3)
        self.albedo = self._sliders(self.start.albedo[0], max(1, identities // 2), "skin", -3, 3)
        order = sorted(range(model.n_expression), key=lambda k: (model.expression_names[k] not in SHOWN_FIRST, k))
        self.expression = {
            k: self._slider(model.expression_names[k], 0.0, 1.0, self.start.expression[0, k]) for k in order
        }
        limits = {"pitch": 60, "yaw": 90, "roll": 60}
        self.pose = {
            name: self._slider(name, -limit, limit, value, 1.0)
            for (name, limit), value in zip(limits.items(), pose, strict=True)
        }
        self.light = {
            "azimuth": self._slider("azimuth", -90, 90, 40, 1.0),
            "elevation": self._slider("elevation", -60, 80, 30, 1.0),
            "strength": self._slider("lamp", 0, 1, 0.6),
        }
        self.clay = ui.ToggleButton(value=False, description="clay", layout={"width": "88px"})
        self.image = ui.Image(format="jpeg", width=2 * size, height=2 * size)
        self._paused = False
        for control in [*self._controls(), self.clay]:
            control.observe(self._draw, "value")
        self.widget = self._layout()
        self._draw()

    @staticmethod
    def _slider(name: str, low: float, high: float, value: float, step: float = 0.05) -> ui.FloatSlider:
        value = float(np.clip(float(value), low, high))
        style = {"description_width": "136px"}
        return ui.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, style=style, layout={"width": "354px"}
        )

    def _sliders(self, values, count, name, low, high) -> dict[int, ui.FloatSlider]:
        return {k: self._slider(f"{name} {k + 1}", low, high, values[k]) for k in range(min(count, len(values)))}

    def _controls(self) -> list[ui.FloatSlider]:
        groups = (self.identity, self.albedo, self.expression, self.pose, self.light)
        return [slider for group in groups for slider in group.values()]

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

    @property
    def parameters(self) -> FaceParameters:
        """The face that the sliders describe (batch of one); modes without a slider keep the start's values."""
        values = {}
        for name, group in (("identity", self.identity), ("albedo", self.albedo), ("expression", self.expression)):
            row = getattr(self.start, name).clone()
            for k, slider in group.items():
                row[0, k] = slider.value
            values[name] = row
        light = self.light
        lighting = directional_light(light["azimuth"].value, light["elevation"].value, light["strength"].value)
        angles = torch.tensor([[self.pose[name].value for name in ("pitch", "yaw", "roll")]])
        turned = framed(
            self.model, self.start.replace(**values), *(float(self.pose[n].value) for n in ("yaw", "pitch"))
        )
        return turned.replace(rotation=euler_to_matrix(angles), lighting=lighting)

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
        groups = ((self.identity, "identity"), (self.albedo, "albedo"), (self.expression, "expression"))
        self._set([(s, float(getattr(self.start, name)[0, k])) for group, name in groups for k, s in group.items()])
        pose = self.start.pose_degrees()[0].tolist()
        self._set(list(zip(self.pose.values(), pose, strict=True)))

    def _set(self, values: list[tuple[ui.FloatSlider, float]]) -> None:
        self._paused = True  # one picture for all of them
        try:
            for slider, value in values:
                slider.value = float(np.clip(value, slider.min, slider.max))
        finally:
            self._paused = False
        self._draw()

    def _draw(self, _=None) -> None:
        if self._paused:
            return
        stream = io.BytesIO()
        Image.fromarray(self.picture()).save(stream, "JPEG", quality=88)
        self.image.value = stream.getvalue()


def explore(model: MorphableModel, start: FaceParameters | None = None, size: int = 256) -> ui.Widget:
    """The explorer's widget, for the last line of a cell."""
    return Explorer(model, size, start=start).widget
