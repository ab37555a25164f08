"""mlanet: 3D face reconstruction from single images, a reproducible study of Hierarchical MLANet (arXiv 2509.10024).

One photo's way through the code, which docs/how_it_works.md follows step by step:

    photo -> crop -> MLANet.encode -> FaceParameters -> MorphableModel -> vertices, albedo -> render_face -> image
                                                            -> mesh files

The packages, floor by floor from the top. Imports only go down; a package with a bar shares the floor of the one above
it, and the two do not know each other (import-linter checks both: pyproject.toml).

    cli             the command `mlanet`
    show            figures, interactive views and the report
    | study         parameters, profiles, and the runner of notebooks
    video           faces in videos: tracking, one identity for a clip, smoothing
    | evaluation    benchmarks: systems, protocols, baselines, intervals, the ablation's verdicts
    | data_check    `mlanet data check`: broken data, and benchmark photos in training sets
    predictor       a photo to faces, and faces to files: detector, weights, OBJ, GLB, ONNX
    | training      losses, augmentation, the loop, resuming, several processes
    data            samples of data sets and synthetic faces, packed into training arrays
    | network       MLANet: backbone, attention, fusion, heads; checkpoints
    drawing         pictures and textures of reconstructed faces
    | face_sources  makers and converters of face models: ICT-FaceKit, London Set, BFM 2009
    | fitter        a predicted face fitted to its photo
    renderer        faces to images, differentiable
    rasterizer      which triangle covers which pixel: numba, Triton or pytorch3d
    face_model      the 3D morphable model, its 68 landmarks, fitting and mirroring
    metrics         error measures, each under a named protocol
    | parameters    `FaceParameters`: all that a face is described by, by name
    geometry        camera, light, alignment, surfaces, crops
    limits          allowed ranges of configuration values, and the memory of this machine
    files           reading and writing files safely: atomic, size-checked, never unpickled
    errors          `UserError`: one line for whoever uses the software
"""

__version__ = "0.1.0"
