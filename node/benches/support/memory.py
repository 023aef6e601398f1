"""What a process holds in memory."""


def resident(pid):
    """(RSS, PSS) in MiB. PSS counts a page shared by n processes as a n-th of one."""
    values = {}
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        for line in rollup:
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss"):
                values[name] = int(rest.split()[0]) / 1024
    return round(values["Rss"], 1), round(values["Pss"], 1)
