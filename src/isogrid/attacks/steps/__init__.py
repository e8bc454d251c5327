"""What several algorithms share: losses, projections, regions, schedules. Not here: an attack of its own, or judging a candidate."""
