"""Does a reconstruction look like the person? The figures of this project's Likeness protocol, on arrays alone.

Proportions of the face, mouths that are closed, the skin's colour, and whether a person is found again. Photos are
those of the Face Research Lab London Set (DeBruine and Jones 2017): 189 points placed by hand on neutral portraits. A
system that gives all people the same face has correlations of about 0, slopes of 0 and a rank-1 near chance.
"""

import numpy as np

from mlanet_lib.evaluation.summary import bootstrap_interval

HAND, DRAWN = 189, 68
"""Points of a photo by hand, and of a drawing (iBUG's 68)."""
# Per distance pairs of places, by hand and in the drawing; a place is the middle of its points, a distance the mean of
# its pairs (the two eyes).
DISTANCES = {
    "eye opening": (
        (((20,), (29,)), ((25,), (32,))),
        (((37, 38), (40, 41)), ((43, 44), (46, 47))),
    ),
    "eye width": ((((18,), (22,)), ((23,), (27,))), (((36,), (39,)), ((42,), (45,)))),
    "between the eyes": ((((22,), (23,)),), (((39,), (42,)),)),
    "nose width": ((((63,), (68,)),), (((31,), (35,)),)),
    "nose length": ((((22, 23), (55,)),), (((39, 42), (33,)),)),
    "mouth width": ((((87,), (93,)),), (((48,), (54,)),)),
    "upper lip": ((((90,), (96,)),), (((51,), (62,)),)),
    "lower lip": ((((101,), (106,)),), (((66,), (57,)),)),
    "philtrum": ((((55,), (90,)),), (((33,), (51,)),)),
    "chin": ((((106,), (129,)),), (((57,), (8,)),)),
    "jaw width": ((((126,), (132,)),), (((4, 5), (11, 12)),)),
    "face width": ((((111,), (114,)),), (((2,), (14,)),)),
    "brow height": (
        (((73, 74), (20,)), ((79, 80), (25,))),
        (((19,), (37, 38)), ((24,), (43, 44))),
    ),
    "face height": ((((22, 23), (129,)),), (((39, 42), (8,)),)),
}
FITTED = ("r", "slope")
"""What `line` gives, by name."""
OUTER_EYES = {HAND: (18, 27), DRAWN: (36, 45)}
INNER_LIPS = {HAND: (96, 101), DRAWN: (62, 66)}
CHEEKS = (165, 166, 168, 169)
EYES_MM = 90.0
"""What the distance of the outer eye corners counts as."""
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
CLOSED_MM, OPEN_MM = 1.0, 2.0
PATCH = 0.0885
"""Side of a cheek's patch, outer eye distances: 25 px where the set's photos have 1350 (median person: 283 px)."""
PROTOCOLS = {
    "proportions": (
        f"{len(DISTANCES)} distances of neutral photos in 2D, points placed by hand against the drawing's 68 (where "
        "iBUG's labels have them, if the face model knows), each over the distance of the outer eye corners; per "
        "distance Pearson's r over people and the slope of the least-squares line drawn = a + slope * true; headline: "
        "their means"
    ),
    "closed_mouths": (
        f"neutral photos whose inner lips are less than {CLOSED_MM:g} mm apart by hand (outer eye corners: "
        f"{EYES_MM:g} mm): how many are drawn more than {OPEN_MM:g} mm open, and the mean error of the gap, mm"
    ),
    "skin": (
        "mean colour of four patches on the cheeks of neutral photos (25 px of the set's 1350, 0.0885 outer eye "
        "distances) against the unlit albedo drawn there; CIE L*a*b* (sRGB, D65), ITA = atan2(L* - 50, b*) and hue = "
        "atan2(b*, a*) in degrees; r and slope as for proportions; ita_error: mean error after the mean difference is "
        "taken off"
    ),
    "identity": (
        "rank-1: smiling photos against the gallery of neutral ones, by the Euclidean distance of the identity "
        "coefficients (and by their cosine); ties share"
    ),
    "recognisable": (
        "rank-1 of a face recogniser that no part of training used (dlib's ResNet): the drawing (albedo under the "
        "predicted light, on white) of the smiling photo against the gallery of neutral photos"
    ),
}


def outer_eyes(points: np.ndarray) -> np.ndarray:
    """Distance of the outer eye corners (P,) of points (P, 189 or 68, 2), in their unit; at least a tiny one."""
    one, other = OUTER_EYES[points.shape[1]]
    return np.maximum(np.linalg.norm(points[:, one] - points[:, other], axis=1), 1e-9)


def distances(points: np.ndarray) -> np.ndarray:
    """The `DISTANCES` (P, 14) of points (P, 189 or 68, 2), divided by that of the outer eye corners."""
    points = np.asarray(points, np.float64)
    kind = (HAND, DRAWN).index(points.shape[1])
    columns = []
    for pairs in DISTANCES.values():
        lengths = [
            np.linalg.norm(points[:, list(one)].mean(1) - points[:, list(other)].mean(1), axis=1)
            for one, other in pairs[kind]
        ]
        columns.append(np.mean(lengths, axis=0))
    return np.stack(columns, 1) / outer_eyes(points)[:, None]


def line(truth: np.ndarray, drawn: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's r and the slope of drawn = a + slope * truth over one axis of two arrays, each without that axis.

    If the truth or the drawing is the same for all people, r is 0; if the drawing is, the slope is 0, too.
    """
    x, y = truth - truth.mean(axis, keepdims=True), drawn - drawn.mean(axis, keepdims=True)
    xx, yy, xy = (x * x).mean(axis), (y * y).mean(axis), (x * y).mean(axis)
    flat = 1e-24 + 1e-20 * ((truth**2).mean(axis) + (drawn**2).mean(axis))  # rounding of what does not differ
    told, said = xx > flat, yy > flat
    slope = np.where(told, xy / np.where(told, xx, 1), 0.0)
    r = np.where(told & said, xy / np.sqrt(np.where(told & said, xx * yy, 1)), 0.0)
    return r, np.where(said, slope, 0.0)


def proportions(hand: np.ndarray, drawn: np.ndarray, floor: np.ndarray | None = None, seed: int = 0) -> dict:
    """r and slope of the distances of P people: points by hand (P, 189, 2) against those of drawings (P, 68, 2).

    floor: (P, 68, 2), another system's drawings of the same people, to compare with. Returns `r`, `slope` (means over
    the distances), `by_distance` (name -> r, slope, truth and drawn: their means), `intervals` (95 %, over people), and
    with a floor `difference` of r and slope, these minus the floor's, with `low` and `high`.
    """
    truth, said = distances(hand), distances(drawn)
    r, slope = line(truth, said)
    columns = dict(zip(FITTED, (r, slope), strict=True)) | {"truth": truth.mean(0), "drawn": said.mean(0)}
    both = np.stack([truth, said], 1)  # (P, 2, 14)
    found = {
        "r": float(r.mean()),
        "slope": float(slope.mean()),
        "by_distance": {
            name: {key: float(column[k]) for key, column in columns.items()} for k, name in enumerate(DISTANCES)
        },
        "people": len(truth),
        "intervals": {
            "r": bootstrap_interval(both, lambda draws: _fit(draws, 1)[0], seed),
            "slope": bootstrap_interval(both, lambda draws: _fit(draws, 1)[1], seed),
        },
    }
    if floor is not None:
        three = np.stack([truth, said, distances(floor)], 1)
        found["difference"] = {name: _more(three, k, seed) for k, name in enumerate(FITTED)}
    return found


def _fit(draws: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Of (K, P, R, 14), truth in row 0: r and slope of another row, means over the distances, (K,) each."""
    r, slope = line(draws[:, :, 0], draws[:, :, row], axis=1)
    return r.mean(-1), slope.mean(-1)


def _more(three: np.ndarray, k: int, seed: int) -> dict:
    """(P, 3, 14) truth, one system, another -> what the first has more of r (k 0) or slope (1), 95 % over people."""

    def more(draws: np.ndarray) -> np.ndarray:
        return _fit(draws, 1)[k] - _fit(draws, 2)[k]

    low, high = bootstrap_interval(three, more, seed)
    return {"difference": float(more(three[None])[0]), "low": low, "high": high}


def lip_gaps(points: np.ndarray) -> np.ndarray:
    """(P,) distance of the inner lips' middles, mm, where the outer eye corners are 90 mm apart."""
    upper, lower = INNER_LIPS[points.shape[1]]
    points = np.asarray(points, np.float64)
    return EYES_MM * np.linalg.norm(points[:, upper] - points[:, lower], axis=1) / outer_eyes(points)


def closed_mouths(hand: np.ndarray, drawn: np.ndarray, seed: int = 0) -> dict:
    """How closed mouths of neutral photos are drawn: points by hand (P, 189, 2) against those of drawings (P, 68, 2).

    Returns `closed` (photos), `drawn_open` of them, `share`, `error_mm` (mean of |drawn gap - true gap|; NaN where no
    mouth is closed) and the `intervals` of the last two, 95 % over people.
    """
    truth, said = lip_gaps(hand), lip_gaps(drawn)
    closed = truth < CLOSED_MM
    opened, error = (said > OPEN_MM)[closed], np.abs(said - truth)[closed]
    none = not closed.any()
    return {
        "closed": int(closed.sum()),
        "drawn_open": int(opened.sum()),
        "share": float("nan") if none else float(opened.mean()),
        "error_mm": float("nan") if none else float(error.mean()),
        "intervals": {
            "share": bootstrap_interval(opened, seed=seed),
            "error_mm": bootstrap_interval(error, seed=seed),
        },
    }


def patch_colour(image: np.ndarray, centres: np.ndarray, side: float, mask: np.ndarray | None = None) -> np.ndarray:
    """Mean colour (3,) of square patches of a picture (H, W, 3); all patches have the same weight.

    centres: (K, 2) pixels, the first pixel's centre at 0.5; side: pixels, at least one is taken. mask: (H, W) bool, the
    pixels that count. Patches without one are left out; none at all: NaN.
    """
    colours = []
    for centre in centres:
        lows = [round(value - side / 2) for value in centre]
        highs = [max(low + 1, round(value + side / 2)) for low, value in zip(lows, centre, strict=True)]
        columns, rows = (slice(max(0, low), max(0, high)) for low, high in zip(lows, highs, strict=True))
        part = image[rows, columns].reshape(-1, 3)
        if mask is not None:
            part = part[mask[rows, columns].reshape(-1)]
        if len(part):
            colours.append(part.mean(0, dtype=np.float64))
    return np.mean(colours, axis=0) if colours else np.full(3, np.nan)


def skin_values(colours: np.ndarray) -> dict[str, np.ndarray]:
    """RGB (P, 3) in [0, 1], sRGB (IEC 61966-2-1), -> of CIE L*a*b* (1976) `lightness` (L*), and `ita` and `hue` in
    degrees, each (P,)."""
    encoded = np.asarray(colours, np.float64).clip(0, 1)
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    share = linear @ (_TO_XYZ / _TO_XYZ.sum(1, keepdims=True)).T  # of white's X, Y, Z
    x, y, z = np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29).T
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    return {
        "lightness": lightness,
        "ita": np.degrees(np.arctan2(lightness - 50, b)),
        "hue": np.degrees(np.arctan2(b, a)),
    }


def skin(photo: np.ndarray, albedo: np.ndarray, groups: np.ndarray, seed: int = 0) -> dict:
    """Colour of the cheeks in photos against that of the albedo there, both (P, 3) RGB in [0, 1]; groups: (P,) names.

    People whose albedo shows no cheek (NaN) are left out and counted in `unseen`. Returns `lightness`, `ita`, `hue`:
    each r, slope and `mean_difference` (albedo minus photo); `ita_error` (degrees); `intervals` of lightness_r,
    lightness_slope, ita_r, ita_slope and ita_error, 95 % over people; `by_group`: people, and the means of both sides.
    """
    seen = np.isfinite(photo).all(1) & np.isfinite(albedo).all(1)
    truth, said = skin_values(photo[seen]), skin_values(albedo[seen])
    found: dict = {"people": int(seen.sum()), "unseen": int((~seen).sum())}
    if seen.sum() < 2:
        return found
    intervals = {}
    for name in truth:
        r, slope = line(truth[name], said[name])
        difference = float((said[name] - truth[name]).mean())
        found[name] = {"r": float(r), "slope": float(slope), "mean_difference": difference}
        both = np.stack([truth[name], said[name]], 1)
        if name != "hue":
            intervals[f"{name}_r"] = bootstrap_interval(both, lambda x: line(x[..., 0], x[..., 1], 1)[0], seed)
            intervals[f"{name}_slope"] = bootstrap_interval(both, lambda x: line(x[..., 0], x[..., 1], 1)[1], seed)
    both = np.stack([truth["ita"], said["ita"]], 1)
    found["ita_error"] = float(_centred_error(both[None])[0])
    intervals["ita_error"] = bootstrap_interval(both, _centred_error, seed)
    names = groups[seen]
    found["by_group"] = {
        str(group): {"people": int((names == group).sum())}
        | {
            f"{side}_{name}": float(values[name][names == group].mean())
            for side, values in (("photo", truth), ("albedo", said))
            for name in ("lightness", "ita")
        }
        for group in np.unique(names)
    }
    return found | {"intervals": intervals}


def _centred_error(both: np.ndarray) -> np.ndarray:
    """(K, P, 2) truth and drawn -> (K,) mean error after the mean difference is taken off."""
    difference = both[..., 1] - both[..., 0]
    return np.abs(difference - difference.mean(1, keepdims=True)).mean(1)


def rank_1(distance: np.ndarray, seed: int = 0) -> dict:
    """Share of probes whose nearest gallery entry is of the same person: distance (P, P), probes by gallery, the same
    people in the same order. Ties share. Returns `rank_1`, its `interval`, 95 % over the probes' people, and `chance`.
    """
    nearest = distance == distance.min(1, keepdims=True)
    hits = np.diagonal(nearest) / nearest.sum(1)
    return {"rank_1": float(hits.mean()), "interval": bootstrap_interval(hits, seed=seed), "chance": 1 / len(distance)}


def headline(summary: dict) -> list[tuple[str, float | None, tuple | None, str]]:
    """The summary's headline: (name, value, 95 % interval over people, best value or chance); None: not run."""
    shape, mouths, skin = summary["proportions"], summary["closed_mouths"], summary["skin"]
    face, found = summary["identity"]["sd"], summary["recognisable"]
    bounds = skin.get("intervals", {})
    rows = [
        ("proportions: r", shape["r"], shape["intervals"]["r"], "1"),
        ("proportions: slope", shape["slope"], shape["intervals"]["slope"], "1"),
        ("closed mouths drawn open", mouths["share"], mouths["intervals"]["share"], f"0, of {mouths['closed']}"),
        ("closed mouths: error, mm", mouths["error_mm"], mouths["intervals"]["error_mm"], "0"),
        ("skin: L* r", skin.get("lightness", {}).get("r"), bounds.get("lightness_r"), "1"),
        ("skin: L* slope", skin.get("lightness", {}).get("slope"), bounds.get("lightness_slope"), "1"),
        ("skin: ITA r", skin.get("ita", {}).get("r"), bounds.get("ita_r"), "1"),
        ("skin: ITA error, degrees", skin.get("ita_error"), bounds.get("ita_error"), "0"),
        ("identity: rank-1", face["rank_1"], face["interval"], f"1, chance {face['chance']:.2f}"),
    ]
    if not found["run"]:
        return [*rows, ("recognisable: rank-1", None, None, found["why"])]
    best = f"1, chance {found['chance']:.2f}, photos themselves {found['of_the_photos']:.2f}"
    return [*rows, ("recognisable: rank-1", found["rank_1"], found["interval"], best)]
