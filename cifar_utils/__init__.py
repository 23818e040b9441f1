"""CIFAR-10 image classification: the library behind the notebooks.

Modules are imported by name, for example ``from cifar_utils import data, plots``; importing the
package itself is cheap and brings in neither Keras nor a backend.
"""

__version__ = "0.1.0"
