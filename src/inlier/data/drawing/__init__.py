"""How generated photos are drawn: relief, components, wear, defects, light and camera."""
