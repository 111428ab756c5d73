"""The flights pipeline's own code: schemas, transformations, expectations, features, model."""
