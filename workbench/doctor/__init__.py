"""The checks of `workbench doctor`: is this machine able to run trials, and what to do if not.

`machine` checks what Python itself can see; `probes` asks libraries and the driver in child
processes with a deadline, and `libraries` judges their answers. `box_facts` is what a machine says
of itself to the head of a cluster, and `box_checks` judges that. The CLI is the only caller. This
package may import `workbench.cluster`, `workbench.machine`, `workbench.footprint`, `workbench.home`
and `workbench.user_config`; torch, ray and the other libraries are imported by the children only.
"""

from workbench.doctor.check import Check
from workbench.doctor.run import run_checks

__all__ = ["Check", "run_checks"]
