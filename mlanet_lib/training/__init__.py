"""Semi-supervised training: `loop` trains what `config` says; `data`, `augmentation`, `losses`, `terms`, `optimizer`
and `validation` are its parts; `resume` and `memory` begin or refuse a run; `processes` and `launch` train in several
processes."""
