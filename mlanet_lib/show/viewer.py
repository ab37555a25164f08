"""A face to turn with the mouse: plotly figures, light enough for a report.

Names are plain text: plotly would take tags and entities in them for its own.
"""

import html

import numpy as np
import plotly.graph_objects as go

from mlanet_lib.show.charts import INK

MOST_TRIANGLES, MOST_TOGETHER = 24_000, 200_000
"""Triangles of a figure's mesh, and of all meshes of a figure."""
HIDDEN = {"visible": False, "showbackground": False}
SCENE = {
    "xaxis": HIDDEN,
    "yaxis": HIDDEN,
    "zaxis": HIDDEN,
    "aspectmode": "data",
    "camera": {"eye": {"x": 0.35, "y": -1.65, "z": 0.12}, "projection": {"type": "perspective"}},
}
LAYOUT = {
    "margin": {"l": 0, "r": 0, "t": 30, "b": 0},
    "paper_bgcolor": "white",
    "font": {"family": "system-ui, sans-serif", "color": INK},
}


def decimate(
    vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, triangles: int = MOST_TRIANGLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mesh of at most `triangles` faces: vertices (V,3) that share a cell of a cube grid become their mean.

    Vertex clustering (Rossignac and Borrel 1993), the cell found by bisection. colours (V,C) are averaged in the same
    way.
    """
    if len(faces) <= triangles:
        return vertices, faces, colours
    low, high = 1e-4 * np.ptp(vertices), np.ptp(vertices, axis=0).max()
    for _ in range(20):
        cell = np.sqrt(low * high)
        result = _cluster(vertices, faces, colours, cell)
        low, high = (low, cell) if len(result[1]) <= triangles else (cell, high)
    return _cluster(vertices, faces, colours, high)


def _cluster(
    vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, cell: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys = np.floor((vertices - vertices.min(0)) / cell).astype(np.int64)
    _, group, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()

    def means(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(group, column) for column in values.T], 1) / count[:, None]

    corners = group[faces]
    kept = corners[(corners != np.roll(corners, 1, axis=1)).all(1)]
    _, first = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)
    return means(vertices), kept[np.sort(first)], means(colours)


def mesh_figure(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> go.Figure:
    """One mesh: vertices (V,3) mm, model frame (y up), faces (F,3), colours (V,3) in [0,1]."""
    figure = go.Figure(_trace(*decimate(np.asarray(vertices, float), faces, colours)))
    return figure.update_layout(scene=SCENE, height=420, **LAYOUT)


def choose_figure(meshes: dict[str, tuple[np.ndarray, np.ndarray]], faces: np.ndarray) -> go.Figure:
    """One face of many, chosen by name from a menu: {name: (vertices (V,3) mm, colours (V,3) in [0,1])}.

    All share `faces`. Where they have more than `MOST_TOGETHER` triangles together, all are thinned out in the same way
    (`decimate`, by the first one's cells). Positions are kept to 0.1 mm.
    """
    columns = np.concatenate([np.concatenate(pair, 1) for pair in meshes.values()], 1)
    budget = min(MOST_TRIANGLES, MOST_TOGETHER // len(meshes))
    _, kept, columns = decimate(np.asarray(columns[:, :3], float), np.asarray(faces), columns, budget)
    traces = []
    for k in range(len(meshes)):
        vertices, colours = np.split(columns[:, 6 * k : 6 * k + 6], 2, 1)
        traces.append(_trace(np.round(vertices, 1), kept, colours))
    figure = go.Figure(traces[0])
    buttons = []
    for name, trace in zip(meshes, traces, strict=True):
        values = {axis: [np.round(np.asarray(trace[axis], float), 1).tolist()] for axis in "xyz"}
        values["vertexcolor"] = [list(trace.vertexcolor)]
        buttons.append({"label": html.escape(name, quote=False), "method": "restyle", "args": [values]})
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "top"}
    return figure.update_layout(scene=SCENE, updatemenus=[menu], height=440, **LAYOUT)


def _trace(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> go.Mesh3d:
    packed = (np.clip(colours, 0, 1) * 255).round().astype(int)
    # the face looks along plotly's -y, up is z
    x, y, z = vertices.astype(np.float32)[:, [0, 2, 1]].T * np.array([[1], [-1], [1]], np.float32)
    index = faces.astype(np.uint16 if len(vertices) < 65536 else np.uint32)
    return go.Mesh3d(
        x=x,
        y=y,
        z=z,
        i=index[:, 0],
        j=index[:, 1],
        k=index[:, 2],
        vertexcolor=[f"#{r:02x}{g:02x}{b:02x}" for r, g, b in packed.tolist()],
        flatshading=False,
        hoverinfo="skip",
        lighting={"ambient": 0.55, "diffuse": 0.7, "specular": 0.08, "roughness": 0.8, "fresnel": 0.02},
        lightposition={"x": 400, "y": -1500, "z": 900},
    )
