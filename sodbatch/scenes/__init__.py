"""Made scenes: aerial-looking pictures of roads, roofs and trees, with small vehicles and people in exact boxes.

They serve the demonstration, tests and benchmarks, and train the demonstration model. Everything follows a seed.
"""

from sodbatch.scenes.scene import LABELS, Scene, make_scene
from sodbatch.scenes.write import write_scenes

__all__ = ["LABELS", "Scene", "make_scene", "write_scenes"]
