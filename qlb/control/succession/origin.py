"""Where this process comes from: what a service manager or the daemon before it has passed to it."""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

from qlb.control.succession.handover import Predecessor, own_command
from qlb.control.succession.inherit import Inherited, from_manager
from qlb.control.succession.memory import Memory
from qlb.control.succession.notify import Notifier


@dataclass(frozen=True, slots=True)
class Origin:
    """Nothing was passed, unless something was.

    predecessor: whoever hands over to this process now. command: how to start a next process; empty: it cannot be.
    """

    inherited: Inherited = field(default_factory=Inherited)
    memory: Memory = field(default_factory=Memory)
    notifier: Notifier = field(default_factory=lambda: Notifier({}))
    predecessor: Predecessor | None = None
    command: Sequence[str] = ()

    @classmethod
    def of_process(cls, environ: MutableMapping[str, str], *, can_be_followed: bool = True) -> "Origin":
        """Find out. environ: of this process; what was for it alone is taken out.

        can_be_followed: False where something else hangs on the life of this process.
        """
        notifier = Notifier(environ)
        predecessor = Predecessor.find(environ)
        inherited = Inherited([*(predecessor.descriptors if predecessor else ()), *from_manager(environ)])
        command = own_command() if can_be_followed else ()
        return cls(inherited, Memory(inherited.state), notifier, predecessor, command)
