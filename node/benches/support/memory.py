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


def forget_peak(pid):
    """Lets the peak of a process begin anew, at what it holds now."""
    with open(f"/proc/{pid}/clear_refs", "w") as refs:
        refs.write("5")


def peak(pid):
    """The most a process has held since then, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"process {pid} has no peak")
