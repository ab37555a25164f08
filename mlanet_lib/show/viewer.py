"""A face to turn with the mouse: plotly figures, light enough for a report. No matplotlib here.

Names and titles are plain text: plotly would take tags and entities in them for its own.
"""

import html

import numpy as np
import plotly.graph_objects as go

CLAY = (189, 194, 204)
MOST_TRIANGLES = 24_000


def decimate(
    vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, triangles: int = MOST_TRIANGLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mesh of at most `triangles` faces: vertices (V,3) that share a cell of a cube grid become their mean.

    Vertex clustering (Rossignac and Borrel 1993), the cell found by bisection. colours (V,C) are averaged alike.
    """
    if len(faces) <= triangles:
        return vertices, faces, colours
    low, high = 1e-4 * np.ptp(vertices), np.ptp(vertices, axis=0).max()
    for _ in range(20):
        cell = np.sqrt(low * high)
        result = _cluster(vertices, faces, colours, cell)
        low, high = (low, cell) if len(result[1]) <= triangles else (cell, high)
    return _cluster(vertices, faces, colours, high)


def _cluster(vertices, faces, colours, cell):
    keys = np.floor((vertices - vertices.min(0)) / cell).astype(np.int64)
    _, group, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    merged = [
        np.stack([np.bincount(group, column) for column in values.T], 1) / count[:, None]
        for values in (vertices, colours)
    ]
    corners = group[faces]
    kept = corners[
        (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 2] != corners[:, 0])
    ]
    _, first = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)
    return merged[0], kept[np.sort(first)], merged[1]


def mesh_figure(
    vertices: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray | None = None,
    title: str = "",
    height: int = 420,
    triangles: int = MOST_TRIANGLES,
) -> go.Figure:
    """One mesh: vertices (V,3) mm, model frame (y up), faces (F,3), colours (V,3) in [0,1] or clay."""
    figure = go.Figure(_trace(vertices, faces, colours, triangles))
    figure.update_layout(scene=_scene(), **_layout(title, height))
    return figure


def compare_figure(
    meshes: dict[str, tuple[np.ndarray, np.ndarray | None]],
    faces: np.ndarray,
    height: int = 380,
    triangles: int = MOST_TRIANGLES,
) -> go.Figure:
    """Several faces of one topology side by side: {name: (vertices (V,3), colours (V,3) in [0,1] or None)}."""
    from plotly.subplots import make_subplots

    count = len(meshes)
    figure = make_subplots(
        1,
        count,
        specs=[[{"type": "scene"}] * count],
        subplot_titles=[html.escape(name, quote=False) for name in meshes],
        horizontal_spacing=0.01,
    )
    for k, (vertices, colours) in enumerate(meshes.values()):
        figure.add_trace(_trace(vertices, faces, colours, triangles), row=1, col=k + 1)
    figure.update_scenes(_scene())
    figure.update_layout(**_layout("", height))
    return figure


def choose_figure(
    meshes: dict[str, tuple[np.ndarray, np.ndarray]], faces: np.ndarray, height: int = 440, triangles: int = 200_000
) -> go.Figure:
    """One face of many, chosen by name from a menu: {name: (vertices (V,3) mm, colours (V,3) in [0,1])}.

    All share `faces`. `triangles`: of all of them together; where there are more, they are thinned out alike
    (`decimate`, by the first one's cells). Positions are kept to 0.1 mm.
    """
    columns = np.concatenate([np.concatenate(pair, 1) for pair in meshes.values()], 1)
    budget = min(MOST_TRIANGLES, triangles // len(meshes))
    _, kept, columns = decimate(np.asarray(columns[:, :3], float), np.asarray(faces), columns, budget)
    traces = []
    for k in range(len(meshes)):
        vertices, colours = np.split(columns[:, 6 * k : 6 * k + 6], 2, 1)
        traces.append(_trace(np.round(vertices, 1), kept, colours, len(kept)))
    figure = go.Figure(traces[0])
    buttons = []
    for name, trace in zip(meshes, traces, strict=True):
        values = {axis: [np.round(np.asarray(trace[axis], float), 1).tolist()] for axis in "xyz"}
        values["vertexcolor"] = [list(trace.vertexcolor)]
        buttons.append({"label": html.escape(name, quote=False), "method": "restyle", "args": [values]})
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "top"}
    figure.update_layout(scene=_scene(), updatemenus=[menu], **_layout("", height))
    return figure


def _trace(vertices, faces, colours, triangles) -> go.Mesh3d:
    colours = np.broadcast_to(np.array(CLAY) / 255, vertices.shape) if colours is None else np.asarray(colours)
    vertices, faces, colours = decimate(np.asarray(vertices, float), np.asarray(faces), colours, triangles)
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


def _scene() -> dict:
    hidden = {"visible": False, "showbackground": False}
    return {
        "xaxis": hidden,
        "yaxis": hidden,
        "zaxis": hidden,
        "aspectmode": "data",
        "camera": {"eye": {"x": 0.35, "y": -1.65, "z": 0.12}, "projection": {"type": "perspective"}},
    }


def _layout(title: str, height: int) -> dict:
    return {
        "title": {"text": html.escape(title, quote=False), "font": {"size": 13}} if title else None,
        "height": height,
        "margin": {"l": 0, "r": 0, "t": 30, "b": 0},
        "paper_bgcolor": "white",
        "font": {"family": "system-ui, sans-serif", "color": "#22262b"},
    }
