"""What runs: plugins, resolution, races, Connections, Listeners; on asyncio."""
