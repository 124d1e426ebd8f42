"""Most of these tests import the libraries of training, here in the order of a worker."""

from workbench.training import libraries

libraries.import_libraries(threads=1)
