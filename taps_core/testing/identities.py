"""Certificates of a throw-away authority: offline, yet encrypted and verified.

trustme makes them. It is imported on first use; nothing else of
:mod:`taps_core.testing` needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taps_core.model.security import Certificate, SecurityParameters

if TYPE_CHECKING:
    from typing import Unpack

    from taps_core.model.keywords import SecurityKeywords

__all__ = ["LocalAuthority", "local_identity"]

#: Where two ends on one machine meet.
_HERE: Final = ("localhost", "127.0.0.1", "::1")


class LocalAuthority:
    """A certificate authority of this process, and whom it vouches for.

    Keys and certificates are content: nothing is written to disk, and nobody else
    trusts them.

    Attributes:
        ca: trustme's, for what is not here.
        pem: The authority's own certificate, for ``trusted_certificates``.

    Raises:
        ImportError: trustme is not installed.
    """

    def __init__(self) -> None:
        try:
            import trustme
        except ImportError as error:
            raise ImportError(
                "certificates for tests are made by trustme, which is not installed: "
                'pip install "taps-core[testing]"',
                name="trustme",
            ) from error
        self.ca: Any = trustme.CA()
        self.pem: bytes = self.ca.cert_pem.bytes()

    def identity(self, *names: str, **more: Any) -> Certificate:
        """A certificate with its key.

        Args:
            *names: Host names (``"*.example"`` too) and addresses that it is for;
                without any those of this machine: localhost, 127.0.0.1 and ::1.
            **more: As trustme's ``issue_cert`` takes them: ``not_before``, ``not_after``
                (it is valid from long ago for a long time), ``key_type``, ….
        """
        made = self.ca.issue_cert(*(names or _HERE), **more)
        chain = b"".join(each.bytes() for each in made.cert_chain_pems)
        return Certificate(chain, made.private_key_pem.bytes())

    def server(self, *names: str, **parameters: Unpack[SecurityKeywords]) -> SecurityParameters:
        """What a Listener of these names is given.

        Args:
            *names: As :meth:`identity`.
            **parameters: Further ones, as :class:`SecurityParameters` takes them, or
                another ``server_certificate``.
        """
        if "server_certificate" not in parameters:
            parameters["server_certificate"] = self.identity(*names)
        return SecurityParameters(**parameters)

    def client(self, **parameters: Unpack[SecurityKeywords]) -> SecurityParameters:
        """What whoever trusts this authority, and no other, is given.

        Args:
            **parameters: Further ones, as :class:`SecurityParameters` takes them, or
                other ``trusted_certificates``.
        """
        parameters.setdefault("trusted_certificates", self.pem)
        return SecurityParameters(**parameters)


def local_identity(
    *names: str, client: str | None = None
) -> tuple[SecurityParameters, SecurityParameters]:
    """Security Parameters of a server, and of a client that trusts it.

    Of an authority that is forgotten at once: nobody else can join, and nothing is
    written to disk. Both work like any others: the client verifies the server by name.

    Args:
        *names: Host names and addresses of the server; without any those of this
            machine: localhost, 127.0.0.1 and ::1.
        client: Name in a certificate that the client shows, and that the server
            demands; ``None``: the server does not ask who comes.

    Raises:
        ImportError: trustme, which makes the certificates, is not installed.
    """
    authority = LocalAuthority()
    if client is None:
        return authority.server(*names), authority.client()
    return (
        authority.server(*names, trusted_certificates=authority.pem),
        authority.client(client_certificate=authority.identity(client)),
    )
