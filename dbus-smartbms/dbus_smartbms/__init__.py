r"""dbus-smartbms: the 123\SmartBMS on Victron's D-Bus."""

__version__ = "0.1.0"
