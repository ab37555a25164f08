"""The default face model, made of ICT-FaceKit and of photographs of the London Set."""
