"""Whether images are cut as a model takes them."""

from sophia_jax.data.images import ImageConfig
from sophia_jax.types import SophiaError


def check_cut(
  config: ImageConfig, method: str, tile_size: int, where: str
) -> None:
  """Refuses images that are cut as another model takes them.

  Args:
    method: how the model's images are cut, one of METHODS.
    tile_size: side of the model's tiles, pixels.
    where: names the model in errors.

  Raises:
    SophiaError: names the settings that fit.
  """
  if config.method != method:
    least, most = (4, 1280) if method == "native" else (1, 12)
    raise SophiaError(
      f"{where}: its images are cut by method {method!r}, config.images.method "
      f"is {config.method!r}; give --config.images.method={method} "
      f"--config.images.tile_size={tile_size} --config.images.min_tiles={least} "
      f"--config.images.max_tiles={most}"
    )
  if config.tile_size != tile_size:
    raise SophiaError(
      f"{where}: takes tiles of {tile_size} pixels, config.images.tile_size is "
      f"{config.tile_size}; give --config.images.tile_size={tile_size}"
    )
