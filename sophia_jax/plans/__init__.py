"""Plans: memory and time of an update on devices that are not attached."""
