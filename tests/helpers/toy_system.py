"""What most systems under test are alike in."""


class ToySystem:
    """A `mlanet_lib.evaluation.systems.System` but for its `model` and `predict_crops`."""

    image_size, weights, detector = 8, "toy", None

    def __init__(self, model):
        self.model, self.metadata = model, {}
