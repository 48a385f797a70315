"""The log over crashes and failing disks: on a disk in memory, which keeps what a disk may keep."""
